"""What the page offers in its forms: the variants, kinds of stages and stages that this working tree has.

Prefect keeps a form with the deployment, as it is when the deployment is made; `make ui` makes them anew at each start.
"""

from pathlib import Path
from typing import Any, Literal

from flows.errors import FlowError
from flows.selection import Selection, choose, kind_of, read_kinds, variants_of
from fusion.errors import FusionError
from fusion.lineage.stages import resolve_stages

WhenBusy = Literal["wait", "refuse"]
Publish = Literal["no", "folder", "hub"]
"""Where packages go at the end of a run: the folder of publish.folder in params.yaml, or the Hub as well."""


def one_of(names: list[str]) -> Any:
    """A type whose values are these names; any text where there are none."""
    return Literal[tuple(names)] if names else str


def _names() -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Variants, stages, and the kinds of stages of each flow; nothing in a folder without a pipeline.

    What is wrong with one that cannot be read is told when something is run, not when this is imported.
    """
    root = Path(".")
    try:
        stages, kinds = resolve_stages(root), read_kinds(root)
    except (FlowError, FusionError, OSError):
        return [], [], {}
    parts = {kind.flow for kind in kinds.values() if kind.flow}
    of_part = {
        part: list(dict.fromkeys(kind_of(stage.name) for stage in choose(Selection(part=part), stages, kinds)))
        for part in sorted(parts)
    }
    of_part["pipeline"] = [name for name in kinds if any(kind_of(stage) == name for stage in stages)]
    return variants_of(stages, kinds), list(stages), of_part


_variants, _stages, _kinds = _names()

Variant: Any = one_of(_variants)
StageName: Any = one_of(_stages)


def kinds_of(flow: str) -> list[str]:
    """The kinds of stages of a flow, in the order of dvc.yaml."""
    return _kinds.get(flow, [])
