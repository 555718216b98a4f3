"""The licence gate: what base models, sources and generated data ask of a checkpoint, and what forbids publishing it.

Facts stand in licences.yaml (base models), terms.yaml (licences of data, models that generated data) and the catalog.
An override is an entry with a reason in data/licence-overrides.yaml, so that it is recorded in git with its author.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from fusion.data.catalog import Catalog, Licence
from fusion.documents import read_yaml
from fusion.hashing import json_sha256
from fusion.lineage.outside import adopted_of, adoption_of
from fusion.lineage.records import Record
from fusion.publish.errors import PublishError
from fusion.settings import Settings

OVERRIDES = Path("data/licence-overrides.yaml")
"""conflict id -> reason."""


@dataclass(frozen=True)
class Conflict:
    """What stands against publishing. `id` is what an override names; `reason` is the override's, None without one."""

    id: str
    what: str
    reason: str | None = None


@dataclass(frozen=True)
class Review:
    """The licences behind a checkpoint. `licences`: licence or its absence -> the parts that are under it."""

    variant: str
    publish_as: str
    licences: dict[str, list[str]]
    duties: dict[str, list[str]]
    conflicts: tuple[Conflict, ...]
    commercial: bool
    carry: tuple[str, ...] = ()
    """Files of fusion/publish/licences/ that go along because of who wrote or drew the data."""
    notice: str = ""
    """What the page has to show because of that."""

    @property
    def open(self) -> list[Conflict]:
        """Conflicts that nobody has overridden: publishing is refused."""
        return [conflict for conflict in self.conflicts if conflict.reason is None]

    @property
    def default_name(self) -> str:
        """A name that complies: the one of params.yaml, with the prefix that a licence asks for."""
        needed = [c.id.rpartition(":")[2] for c in self.conflicts if c.id.startswith("name:")]
        return f"{max(needed, key=len)}-{self.publish_as}" if needed else self.publish_as


def review(settings: Settings, catalog: Catalog, variant: str, root: Path = Path(".")) -> Review:
    """The review of a variant as params.yaml and the catalog are now.

    Raises:
        PublishError: a base model whose licence is not in licences.yaml, or overrides that are none.
    """
    chosen = settings.variant(variant)
    known = _facts("licences.yaml")["base_models"]
    facts = _facts("terms.yaml")
    overrides = _overrides(root)
    state = _State(chosen.publish_as)
    for part in (chosen.base.llm, chosen.base.tower):
        if part.name is None:
            continue
        if part.name not in known:
            raise PublishError(
                f"the licence of base model {part.name} is not known: add it to fusion/publish/licences.yaml"
            )
        entry = known[part.name]
        state.licences.setdefault(entry["title"], []).append(f"base model {part.name}")
        if entry.get("notice"):
            state.duties.setdefault(entry["title"], []).append(f'show "{entry["notice"]}"')
        if entry.get("text"):
            state.duties.setdefault(entry["title"], []).append("carry its text")
        state.name(entry.get("name_prefix"), entry["title"], part.name)
    for dataset in dict.fromkeys(getattr(chosen.data, stage) for stage in chosen.stage_names):
        for name, source in catalog.dataset(dataset).sources.items():
            _source(f"{dataset}/{name}", source.licence, facts, state)
    if chosen.adopted:
        place = f"{variant}/{chosen.adopted}"
        _adopted(place, adoption_of(f"checkpoints/{place}", root), state)
    conflicts = tuple(Conflict(one.id, one.what, overrides.get(one.id)) for one in state.conflicts.values())
    return Review(
        variant, chosen.publish_as, state.licences, state.duties, conflicts, state.commercial,
        tuple(sorted(state.carry)), ", ".join(sorted(state.notices)),
    )  # fmt: skip


def against(name: str, licence: Licence, root: Path = Path(".")) -> list[Conflict]:
    """What stands against publishing weights that were trained on one source, under whatever name."""
    state = _State("")
    _source(name, licence, _facts("terms.yaml"), state)
    overrides = _overrides(root)
    found = [one for one in state.conflicts.values() if not one.id.startswith("name:")]
    return [Conflict(one.id, one.what, overrides.get(one.id)) for one in found]


class _State:
    """What is gathered."""

    def __init__(self, publish_as: str) -> None:
        self.publish_as = publish_as
        self.licences: dict[str, list[str]] = {}
        self.duties: dict[str, list[str]] = {}
        self.conflicts: dict[str, Conflict] = {}
        self.commercial = True
        self.carry: set[str] = set()
        self.notices: set[str] = set()

    def conflict(self, identifier: str, what: str) -> None:
        self.conflicts.setdefault(identifier, Conflict(identifier, what))

    def name(self, prefix: str | None, title: str, because: str) -> None:
        if prefix and not self.publish_as.startswith(prefix):
            what = f"{title}: the name of a model made with {because} begins with `{prefix}`; it is {self.publish_as}"
            self.conflict(f"name:{prefix}", what)


def _adopted(place: str, record: Record | None, state: _State) -> None:
    """A checkpoint made elsewhere. What somebody decides about it holds for these files: their hash is in the id."""
    adopted = adopted_of(record) if record else None
    told, declared = (adopted.told, adopted.declared) if adopted else ("somewhere unrecorded", None)
    files = record.outputs if record else {}
    state.licences.setdefault(declared or "unknown", []).append(f"the weights of {place}, adopted from {told}")
    state.licences.setdefault("unknown", []).append(f"the data of {place}")
    state.commercial = False
    state.conflict(
        f"adopted:{place}:{json_sha256(files)[:12]}",
        f"{place}: adopted from {told}, whose card declares {declared or 'no licence'}; the licences of the data that "
        "it was trained on are not known here",
    )


def _source(name: str, licence: Licence, facts: Mapping[str, Any], state: _State) -> None:
    stated = licence.verified or licence.declared
    if stated is None:
        state.licences.setdefault("unknown", []).append(name)
        state.commercial = False
        state.conflict(f"unknown:{name}", f"{name}: its licence is not known")
    elif stated not in facts["licences"]:
        state.licences.setdefault(stated, []).append(name)
        state.conflict(
            f"unread:{name}", f"{name}: nobody has read what {stated} asks; add it to fusion/publish/terms.yaml"
        )
    else:
        _apply(name, stated, facts["licences"][stated], state)
    for key, generator in facts["generators"].items():
        if re.search(generator["mark"], licence.evidence or ""):
            _apply(name, generator["title"], generator, state, key)
            state.name(generator["name_prefix"], generator["title"], name)
            state.carry |= set(generator["carry"])
            state.notices |= {generator["notice"]} - {None}


def _apply(name: str, title: str, entry: Mapping[str, Any], state: _State, key: str | None = None) -> None:
    state.licences.setdefault(title, []).append(name)
    for duty in entry["duties"]:
        duties = state.duties.setdefault(title, [])
        if duty not in duties:
            duties.append(duty)
    state.commercial &= entry["use"] == "commercial"
    if entry["conflict"]:
        state.conflict(f"{key or title}:{name}", f"{name}: {title}: {entry['conflict']}")


def carried_texts(found: Review) -> dict[str, str]:
    """Name -> text of what has to go along; raises `PublishError` naming what is not in fusion/publish/licences/."""
    folder = resources.files("fusion.publish").joinpath("licences")
    missing = [name for name in found.carry if not folder.joinpath(name).is_file()]
    if missing:
        generators = _facts("terms.yaml")["generators"].values()
        titles = ", ".join(entry["title"] for entry in generators if set(entry["carry"]) & set(missing))
        raise PublishError(
            f"{titles}: its texts must accompany weights that were trained on what the model wrote: save them as "
            + ", ".join(f"fusion/publish/licences/{name}" for name in missing)
        )
    return {name: folder.joinpath(name).read_text(encoding="utf-8") for name in found.carry}


def _facts(name: str) -> dict[str, Any]:
    text = resources.files("fusion.publish").joinpath(name).read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def _overrides(root: Path) -> dict[str, str]:
    if not (root / OVERRIDES).is_file():
        return {}
    found = read_yaml(root / OVERRIDES, PublishError)
    for key, reason in found.items():
        if not isinstance(key, str) or not isinstance(reason, str) or len(reason.split()) < 3:
            raise PublishError(f"{OVERRIDES}: `{key}` needs a reason of some words: who decided it, and why")
    return found


def check_licences(settings: Settings, catalog: Catalog, variant: str, root: Path = Path(".")) -> Review:
    """The review, for who is about to publish; raises `PublishError` listing every conflict that is open."""
    found = review(settings, catalog, variant, root)
    if found.open:
        lines = "".join(f"\n  {conflict.id}: {conflict.what}" for conflict in found.open)
        raise PublishError(
            f"{variant} cannot be published as {found.publish_as}:{lines}\n"
            f"A person who may decide it can add `id: reason` to {OVERRIDES}"
        )
    return found
