"""Two lineages side by side: which runs differ by themselves, which only follow from others, which had no effect.

A run is a cause when its own command, parameters, code or source files differ and its outputs do too. One whose own
inputs differ, but whose outputs are equal, has no effect on anything after it. One that merely read something else is a
consequence. One with equal inputs and other outputs points at the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fusion.lineage.family import Family, Member
from fusion.lineage.records import ADOPT

Pair = tuple[Any, Any]
ABSENT = "(not there)"
"""Stands for a value that one side does not have."""


@dataclass(frozen=True)
class RunDiff:
    """One run in both lineages, or in one of them. `role` is its name without variant and data set."""

    role: str
    first: Member | None
    second: Member | None
    params: dict[str, Pair] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    environment: dict[str, Pair] = field(default_factory=dict)
    same_outputs: bool = False
    parents_differ: bool = False

    @property
    def own(self) -> bool:
        """Whether the run differs by itself."""
        return self.first is None or self.second is None or bool(self.params or self.sources)

    @property
    def is_cause(self) -> bool:
        """Whether it differs by itself, with an effect."""
        return self.own and not self.same_outputs

    @property
    def is_unexplained(self) -> bool:
        """Whether equal inputs gave other outputs."""
        return not self.own and not self.same_outputs and not self.parents_differ


def compare(first: Family, second: Family) -> list[RunDiff]:
    """A `RunDiff` for each run that differs in any way, in the order of making."""
    ours, theirs = _roles(first), _roles(second)
    found: list[RunDiff] = []
    changed: set[str] = set()
    for role in [*ours, *(role for role in theirs if role not in ours)]:
        a, b = ours.get(role), theirs.get(role)
        if a is None or b is None:
            found.append(RunDiff(role, a[0] if a else None, b[0] if b else None))
            changed.add(role)
            continue
        diff = _one(role, a, b, changed)
        if not diff.same_outputs:
            changed.add(role)
        if diff.own or not diff.same_outputs or diff.environment:
            found.append(diff)
    return found


@dataclass(frozen=True)
class _Names:
    """How a lineage calls its variant and data sets; a data set goes by the stage that it trains."""

    variant: str | None
    sets: Mapping[str, str]

    def plain(self, text: str) -> str:
        """`text` with the role in place of each name."""
        parts = text.replace("@", "/").replace(".", "/").split("/")
        for name, role in sorted(self.sets.items(), key=lambda item: -len(item[0])):
            if name in parts or any(part.startswith(f"{name}-") for part in parts):
                text = text.replace(name, role)
        # An adoption is named after its place: adopt@MODEL-STAGE.
        if self.variant and text.startswith(f"{ADOPT}@{self.variant}-"):
            return f"{ADOPT}@MODEL-{text.removeprefix(f'{ADOPT}@{self.variant}-')}"
        return text.replace(self.variant, "MODEL") if self.variant and self.variant in parts else text


def _roles(family: Family) -> dict[str, tuple[Member, _Names]]:
    sets: dict[str, str] = {}
    variant = None
    for member in family.members.values():
        if member.stage.startswith("train_"):
            stage, _, variant = member.stage.removeprefix("train_").partition("@")
            for path in member.record.inputs:
                parts = path.split("/")
                if parts[:2] == ["data", "manifests"] and len(parts) == 3:
                    sets[parts[2]] = f"{stage}-data"
    names = _Names(variant, sets)
    return {names.plain(member.stage): (member, names) for member in family.members.values()}


def _one(role: str, a: tuple[Member, _Names], b: tuple[Member, _Names], changed: set[str]) -> RunDiff:
    (first, ours), (second, theirs) = a, b
    params = _different(_params(first, ours), _params(second, theirs))
    command = (ours.plain(str(first.record.document["command"])), theirs.plain(str(second.record.document["command"])))
    if command[0] != command[1]:
        params["command"] = command
    read = (_sources(first), _sources(second))
    outputs = [
        sorted((names.plain(path), sha) for path, sha in m.record.outputs.items())
        for m, names in ((first, ours), (second, theirs))
    ]
    parents = {names.plain(stage) for m, names in ((first, ours), (second, theirs)) for stage in m.parents}
    return RunDiff(
        role, first, second, params,
        tuple(sorted(_different(*read))),
        _different(_environment(first), _environment(second)),
        outputs[0] == outputs[1],
        bool(parents & changed),
    )  # fmt: skip


def _sources(member: Member) -> dict[str, Any]:
    # catalogs are in the parameters, entry by entry, as far as a run reads them
    return {path: member.record.inputs[path] for path in member.sources if path != "data/catalog"}


def _params(member: Member, names: _Names) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file, values in member.record.document["params"].items():
        # Where an adopted checkpoint came from says more than the hashes of its files.
        for key, value in sorted(values.items(), key=lambda item: (file, item[0]) == (ADOPT, "files")):
            if (file, key) == (ADOPT, "name"):
                value = names.plain(value)
            prefix = "" if file == "params.yaml" or file.startswith("data/catalog/") else f"{file}: "
            _flatten(prefix + names.plain(key), value, found)
    return found


def _flatten(key: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            _flatten(f"{key}.{name}", inner, into)
    else:
        into[key] = value


def _environment(member: Member) -> dict[str, Any]:
    run = member.run
    found: dict[str, Any] = {}
    environment = run.get("environment") or {}
    for name in ("python", "platform", "packages"):
        if name in environment:
            _flatten(name, environment[name], found)
    hardware = run.get("hardware") or {}
    for name in ("processor", "accelerators"):
        if name in hardware:
            found[name] = hardware[name]
    return found


def _different(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Pair]:
    names = [*first, *(name for name in second if name not in first)]
    pairs = {name: (first.get(name, ABSENT), second.get(name, ABSENT)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
