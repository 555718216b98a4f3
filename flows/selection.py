"""Which stages a run is about: those of one flow, of some variants, from a kind of stage to another, or by name.

A selection only narrows what dvc.yaml has at the commit that runs; it changes no parameter. What a kind of stage
belongs to, and which exit codes allow another try, stands beside it in dvc.yaml under `meta`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from flows.errors import FlowError
from fusion.lineage.stages import Stage, ancestors_of, parents_of, producers

PARTS = ("data", "training", "evaluation", "publishing")
"""The flows that are a part of the pipeline. The flow `pipeline` has the stages of all of them, and any others."""


@dataclass(frozen=True)
class Kind:
    """An entry of dvc.yaml, before its loop: `train_stage1` is the kind of `train_stage1@tiny`."""

    name: str
    flow: str | None
    retry_exit_codes: tuple[int, ...]


def read_kinds(root: Path) -> dict[str, Kind]:
    """The kinds of stages in the order of dvc.yaml."""
    document = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))
    kinds = {}
    for name, entry in (document.get("stages") or {}).items():
        meta = (entry.get("do") or entry).get("meta") or {}
        flow = meta.get("flow")
        if flow is not None and flow not in PARTS:
            raise FlowError(f"dvc.yaml: stages.{name}: meta.flow is `{flow}`; it can be {', '.join(PARTS)}")
        kinds[name] = Kind(name, flow, tuple(meta.get("retry_exit_codes") or ()))
    return kinds


def kind_of(stage: str) -> str:
    """`train_stage1` for `train_stage1@tiny`."""
    return stage.split("@", 1)[0]


def item_of(stage: str) -> str | None:
    """`tiny` for `train_stage1@tiny`; None for a stage without a loop."""
    return stage.split("@", 1)[1] if "@" in stage else None


def variants_of(stages: Iterable[str], kinds: Mapping[str, Kind]) -> list[str]:
    """What the training stages loop over: the variants that this commit's params.yaml allows."""
    of_training = (name for name in stages if (kind := kinds.get(kind_of(name))) and kind.flow == "training")
    return list(dict.fromkeys(item for name in of_training if (item := item_of(name)) is not None))


@dataclass(frozen=True)
class Selection:
    """What a person chose; None and empty mean everything."""

    part: str | None = None
    variants: tuple[str, ...] = ()
    from_kind: str | None = None
    until_kind: str | None = None
    targets: tuple[str, ...] = ()
    """Stages by name, with all that they need."""
    only: str | None = None
    """One stage by name, without what it needs."""


def choose(selection: Selection, stages: Mapping[str, Stage], kinds: Mapping[str, Kind]) -> list[Stage]:
    """The stages of the selection in DVC's order; raises `FlowError` for a name that dvc.yaml does not have."""
    if selection.only is not None:
        _known(selection.only, stages)
        return [stages[selection.only]]
    chosen = set(stages)
    if selection.targets:
        chosen &= _with_ancestors(selection.targets, stages)
    if selection.variants:
        allowed = variants_of(stages, kinds)
        for variant in selection.variants:
            if variant not in allowed:
                raise FlowError(
                    f"no stage builds the variant `{variant}`; run.variants of params.yaml has: {', '.join(allowed)}"
                )
        chosen &= _with_ancestors((name for name in stages if item_of(name) in selection.variants), stages)
    if selection.part is not None:
        chosen = {name for name in chosen if kinds[kind_of(name)].flow == selection.part}
    if selection.until_kind is not None:
        chosen &= _with_ancestors(_of_kind(selection.until_kind, stages), stages)
    if selection.from_kind is not None:
        chosen &= _with_descendants(_of_kind(selection.from_kind, stages), stages)
    return [stage for stage in stages.values() if stage.name in chosen]


def needed_before(selected: Iterable[Stage], stages: Mapping[str, Stage]) -> list[Stage]:
    """What the selected stages need and the selection leaves out."""
    names = [stage.name for stage in selected]
    before = _with_ancestors(names, stages) - set(names)
    return [stage for name, stage in stages.items() if name in before]


def refuse_stale_inputs(selected: Iterable[Stage], stages: Mapping[str, Stage], changed: Mapping[str, str]) -> None:
    """Raises `FlowError` when something before the selection is out of date: nothing is made from stale inputs."""
    stale = [stage.name for stage in needed_before(selected, stages) if stage.name in changed]
    if stale:
        more = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
        raise FlowError(
            f"{stale[0]}{more} comes before and is not up to date ({changed[stale[0]]}): run that first, or everything "
            "with the flow `pipeline`"
        )


def _known(name: str, stages: Mapping[str, Stage]) -> None:
    if name not in stages:
        raise FlowError(f"dvc.yaml has no stage `{name}`; it has: {', '.join(stages)}")


def _of_kind(kind: str, stages: Mapping[str, Stage]) -> list[str]:
    found = [name for name in stages if kind_of(name) == kind]
    if not found:
        kinds = dict.fromkeys(kind_of(name) for name in stages)
        raise FlowError(f"dvc.yaml has no kind of stage `{kind}`; it has: {', '.join(kinds)}")
    return found


def _with_ancestors(names: Iterable[str], stages: Mapping[str, Stage]) -> set[str]:
    found: set[str] = set()
    for name in names:
        _known(name, stages)
        found |= {name, *(stage.name for stage in ancestors_of(name, stages))}
    return found


def _with_descendants(names: Iterable[str], stages: Mapping[str, Stage]) -> set[str]:
    found = set(names)
    outputs = producers(stages.values())
    for stage in stages.values():  # Parents come before children.
        if found & set(parents_of(stage, outputs)):
            found.add(stage.name)
    return found
