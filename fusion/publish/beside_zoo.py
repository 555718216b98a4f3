"""Own scores of the model zoo's columns beside its published ones: what the report's picture of bars shows."""

from dataclasses import dataclass
from pathlib import Path

from fusion.evaluate.gate import read_evaluated
from fusion.evaluate.verdict import Status, Verdict
from fusion.settings import Settings
from fusion.zoo.entries import load_zoo

_KINDS = {Status.PASS: "model", Status.FAIL: "failed", Status.INCOMPARABLE: "aside"}
"""How the bar of a column looks; without one of these it has none, because there is no number that counts."""


@dataclass(frozen=True)
class Mark:
    """A published score as a share of the column's greatest value; `reference`: of the model that the gate names."""

    model: str
    place: float
    score: str
    reference: bool


@dataclass(frozen=True)
class ZooRow:
    """One column. `place`, `low` and `high` are shares of its greatest value, None without a number that counts."""

    name: str
    title: str
    kind: str
    told: str
    place: float | None
    low: float
    high: float
    status: Status
    marks: tuple[Mark, ...]


def beside_zoo(settings: Settings, variant: str, verdicts: list[Verdict], root: Path = Path()) -> list[ZooRow]:
    """All columns of the zoo, those that were run first, else in the zoo's order."""
    zoo, facts = load_zoo(), read_evaluated(variant, root).document["columns"]
    reference = settings.variant(variant).evaluation.gate.reference
    found = {verdict.column: verdict for verdict in verdicts}
    rows = []
    for column in zoo.columns:
        own, verdict = facts.get(column.name, {}), found[column.name]
        marks = tuple(
            Mark(model.name, model.scores[column.name] / column.maximum, f"{model.scores[column.name]:g}", is_reference)
            for model in zoo.models
            for is_reference in [model.name == reference]
        )
        counts = verdict.status in _KINDS and "value" in own
        place, low, high = (own[key] / column.maximum if counts else 0.0 for key in ("value", "low", "high"))
        rows.append(
            ZooRow(
                column.name, column.title, _KINDS.get(verdict.status, "none"),
                f"{own['value']:.1f}" if counts else "", place if counts else None, low, high, verdict.status, marks,
            )
        )  # fmt: skip
    return sorted(rows, key=lambda row: row.status is Status.NOT_RUN)
