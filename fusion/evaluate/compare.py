"""Two checkpoints on the same questions: paired differences by column, corrected for the number of columns."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from fusion.errors import FusionError
from fusion.evaluate.accepted import FOLDER as ACCEPTED
from fusion.evaluate.records import values_again
from fusion.evaluate.scorers.known import scorer
from fusion.evaluate.statistics import Difference, clusters_needed, difference, holm
from fusion.settings import Settings

POWER = 0.8


class CompareError(FusionError):
    """One of the two has no evaluation, or they share no column on the same rows."""


@dataclass(frozen=True)
class Side:
    """One checkpoint's evaluation."""

    name: str
    document: dict[str, Any]
    records: pl.DataFrame


@dataclass(frozen=True)
class Compared:
    """One column of both. `found` is None where nothing can be paired, and `reason` says why."""

    column: str
    a: float | None
    b: float | None
    found: Difference | None
    needed: int | None
    reason: str | None


def read_side(name: str, root: Path = Path()) -> Side:
    """A variant's evaluation, its accepted one (`accepted/VARIANT`), or a folder with columns.json and records.

    Raises `CompareError` naming what was looked for.
    """
    folders = [root / "results" / name / "evaluation", root / ACCEPTED / name.removeprefix("accepted/"), root / name]
    if name.startswith("accepted/"):
        folders = folders[1:]
    for folder in folders:
        if not (folder / "columns.json").is_file():
            continue
        table = folder / ("records.parquet" if (folder / "records.parquet").is_file() else "scores.parquet")
        try:
            document = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
            return Side(name, document, pl.read_parquet(table))
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            raise CompareError(f"{folder} cannot be read: {error}") from error
    looked = ", ".join(str(folder) for folder in folders)
    raise CompareError(f"`{name}` has no evaluation: looked for columns.json in {looked}. Run `fusion evaluate`")


def compare(settings: Settings, a: Side, b: Side, smallest: float) -> list[Compared]:
    """B minus A in every column that either has; `smallest`: the difference whose sample size is wanted, in percent of
    the column's greatest value.

    Raises `CompareError` when no column can be paired.
    """
    names = list(dict.fromkeys([*a.document["columns"], *b.document["columns"]]))
    rows = [_column(settings, name, a, b) for name in names]
    pairs = [row for row in rows if row.found is not None]
    if not pairs:
        told = "".join(f"\n  {row.column}: {row.reason}" for row in rows)
        raise CompareError(f"{a.name} and {b.name} share no column that can be compared:{told or ' none was run'}")
    adjusted = iter(holm([row.found.p for row in pairs if row.found]))
    done = []
    for row in rows:
        if row.found is None:
            done.append(row)
            continue
        found = replace(row.found, adjusted=next(adjusted))
        confidence = settings.evaluation.confidence
        needed = clusters_needed(found, smallest * _greatest(row.column) / 100.0, confidence, len(pairs), POWER)
        done.append(replace(row, found=found, needed=needed))
    return done


def _column(settings: Settings, name: str, a: Side, b: Side) -> Compared:
    one, other = (side.document["columns"].get(name) for side in (a, b))
    x, y = (None if f is None or f["status"] != "VALID" else float(f["value"]) for f in (one, other))
    if one is None or other is None:
        return Compared(name, x, y, None, None, f"not run for {a.name if one is None else b.name}")
    bad = [f"{side.name}: {f['reason']}" for side, f in ((a, one), (b, other)) if f["status"] != "VALID"]
    if bad:
        return Compared(name, x, y, None, None, f"INVALID, {'; '.join(bad)}")
    if one["evidence"]["rows"] != other["evidence"]["rows"]:
        return Compared(name, x, y, None, None, "the rows are not the same")
    if (one["scorer"], one["value_name"]) != (other["scorer"], other["value_name"]):
        return Compared(name, x, y, None, None, "the definitions are not the same")
    old, new = (
        values_again(scorer(one["scorer"]), side.records.filter(pl.col("column") == name))[one["value_name"]]
        for side in (a, b)
    )
    evaluation = settings.evaluation
    found = difference(old, new, evaluation.bootstrap_samples, evaluation.confidence, settings.run.seed)
    return Compared(name, x, y, found, None, None)


def _greatest(name: str) -> float:
    from fusion.evaluate.columns.entries import load_columns

    columns = load_columns()
    return float(columns[name].zoo.maximum) if name in columns else 100.0


def told(rows: list[Compared], a: Side, b: Side, confidence: float, smallest: float) -> str:
    """The table, with a word on what it says: different, or not shown."""
    head = (
        f"{'column':<16}{'A':>9}{'B':>9}{'B - A':>9}  {f'{confidence:.0%} interval':<20}{'p (Holm)':>9}  {'needed':<12}"
    )
    lines = [f"A = {a.name}, B = {b.name}", head + "says"]
    for row in rows:
        shown = [f"{value:>9.2f}" if value is not None else f"{'-':>9}" for value in (row.a, row.b)]
        if row.found is None:
            lines.append(f"{row.column:<16}{''.join(shown)}{'-':>9}  {row.reason}")
            continue
        found = row.found
        interval = f"{found.low:+.2f} to {found.high:+.2f}"
        needed = f"{row.needed:,} of {found.clusters:,}"
        different = found.adjusted <= 1.0 - confidence
        word = ("B is better" if found.value > 0 else "B is worse") if different else "no difference shown"
        lines.append(
            f"{row.column:<16}{''.join(shown)}{found.value:>+9.2f}  {interval:<20}{found.adjusted:>9.4f}  "
            f"{needed:<12}{word}"
        )
    lines.append(
        f"needed: clusters for a difference of {smallest:g}% of the scale to be seen in {POWER:.0%} of all cases, "
        "of those that there are"
    )
    return "\n".join(lines)


def as_document(rows: list[Compared]) -> list[dict[str, Any]]:
    """For programs."""
    return [
        {
            "column": row.column, "a": row.a, "b": row.b, "reason": row.reason, "clusters_needed": row.needed,
            "difference": None if row.found is None else vars(row.found),
        }
        for row in rows
    ]  # fmt: skip
