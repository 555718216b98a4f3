"""The gate before publishing: required columns, margins that params.yaml fixes beforehand, and no step back.

It fails closed. A number counts only if its weights are the ones on the disk, its rows the ones that are there now,
and its answers said something; what was not run, is invalid or cannot be compared does not pass.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fusion.errors import FusionError
from fusion.evaluate.accepted import Accepted, read_accepted
from fusion.evaluate.benchmark import load_benchmark
from fusion.evaluate.benchmark_rows import benchmark_rows_sha256
from fusion.evaluate.columns.entries import load_columns
from fusion.evaluate.records import values_again, weights_sha256
from fusion.evaluate.scorers.known import scorer
from fusion.evaluate.statistics import difference
from fusion.evaluate.verdict import Status, Verdict
from fusion.settings import Settings


class GateError(FusionError):
    """The gate does not let a variant pass; the message holds the table."""


@dataclass(frozen=True)
class Evaluated:
    """What `fusion evaluate` left: columns.json, records.parquet, and the margins over the blind baselines."""

    document: dict[str, Any]
    records: pl.DataFrame
    margins: dict[str, dict[str, Any]]


def read_evaluated(variant: str, root: Path) -> Evaluated:
    """Raises `GateError` naming the file that is missing or broken: nothing passes then."""
    folder = root / "results" / variant / "evaluation"
    try:
        document = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        records = pl.read_parquet(folder / "records.parquet")
        margins = {
            name: next(row for row in benchmark["margins"] if row["group"] == "all")
            for name, benchmark in scores["benchmarks"].items()
        }
        columns = document["columns"]
        if document["variant"] != variant or not isinstance(columns, dict) or not document["weights"]:
            raise ValueError(f"columns.json is not that of {variant}")
    except (OSError, ValueError, KeyError, TypeError, StopIteration, pl.exceptions.PolarsError) as error:
        raise GateError(f"{folder} holds no evaluation ({error!r}): run `dvc repro evaluate@{variant}`") from error
    return Evaluated(document, records, margins)


def judge_variant(settings: Settings, variant: str, root: Path = Path()) -> list[Verdict]:
    """A verdict for each of the variant's benchmarks and each of the zoo's columns.

    Raises:
        GateError: there is no evaluation to judge.
    """
    evaluated = read_evaluated(variant, root)
    found = weights_sha256(root / "checkpoints" / variant / "stage2")
    changed = None
    if found != evaluated.document["weights"]:
        changed = "the weights on the disk are not those that were evaluated"
    accepted = read_accepted(variant, root)
    return list(_verdicts(settings, variant, evaluated, accepted, changed, root))


def _verdicts(
    settings: Settings, variant: str, evaluated: Evaluated, accepted: Accepted | None, changed: str | None, root: Path
) -> Iterator[Verdict]:
    own = settings.variant(variant).evaluation
    for name in dict.fromkeys([*own.benchmarks, *own.gate.over_blind, *load_columns()]):
        required = name in own.gate.over_blind or name in own.gate.columns
        facts = evaluated.document["columns"].get(name)
        if facts is None:
            yield Verdict(name, Status.NOT_RUN, required, "not among the columns that were run")
            continue
        try:
            reason = changed or _invalid(settings, variant, name, facts, evaluated, root)
            verdict = None if reason else _judged(settings, variant, name, facts, evaluated, accepted, required)
        except FusionError as error:
            reason, verdict = str(error), None
        except (KeyError, TypeError, ValueError) as error:
            reason, verdict = f"its facts cannot be read: {error!r}", None
        yield verdict or Verdict(name, Status.INVALID, required, str(reason))


def _invalid(
    settings: Settings, variant: str, name: str, facts: dict[str, Any], evaluated: Evaluated, root: Path
) -> str | None:
    """Why a column's number counts for nothing, or None."""
    if facts["status"] != "VALID":
        return str(facts["reason"])
    own = settings.variant(variant).evaluation
    columns = load_columns()
    expected = columns[name].questions if name in columns else facts["expected"]
    if facts["questions"] != expected:
        return f"{facts['questions']} questions, and there must be {expected}"
    if name in columns and facts["value_name"] != columns[name].value:
        return f"its number is `{facts['value_name']}`, and that of the column is `{columns[name].value}`"
    rows = evaluated.records.filter(pl.col("column") == name)
    if len(rows) != facts["questions"]:
        return f"records.parquet holds {len(rows)} of its {facts['questions']} questions"
    again = values_again(scorer(facts["scorer"]), rows)[facts["value_name"]].point
    if abs(again - facts["value"]) > 1e-3:
        return f"its records give {again:.4f}, columns.json says {facts['value']:.4f}"
    if facts["unparsed"] > own.gate.max_unparsed:
        return f"{facts['unparsed']:.1%} of the answers name nothing, at most {own.gate.max_unparsed:.1%} may"
    if (facts.get("judge") or {}).get("failed"):
        return "its judge failed"
    if name in own.benchmarks:
        benchmark = load_benchmark(name, own.benchmarks[name].questions, settings.run.seed, root)
        if benchmark_rows_sha256(benchmark) != facts["evidence"]["rows"]:
            return "its rows are not those that were asked"
    return None


def _judged(
    settings: Settings,
    variant: str,
    name: str,
    facts: dict[str, Any],
    evaluated: Evaluated,
    accepted: Accepted | None,
    required: bool,
) -> Verdict:
    gate = settings.variant(variant).evaluation.gate
    score = f"{facts['value']:.1f} ({facts['low']:.1f} to {facts['high']:.1f})"
    if name in gate.over_blind:
        margin, least = evaluated.margins[name], gate.over_blind[name]
        against = f"blind {least:+.1%}"
        told = f"{margin['margin']:+.1%} over {margin['baseline']}, at least {margin['low']:+.1%}"
        status, reason = (Status.PASS if margin["low"] >= least else Status.FAIL), told
    elif name in load_columns() and gate.reference is not None:
        column = load_columns()[name]
        published, allowed = column.published(gate.reference), settings.evaluation.gate.margins.get(name)
        against = f"{published:.1f}" + (f" - {allowed:.1f}" if allowed is not None else "")
        if column.comparability.status != "same":
            status, reason = Status.INCOMPARABLE, f"{column.comparability.status}: {column.comparability.why}"
        elif allowed is None:
            status, reason = Status.INCOMPARABLE, "evaluation.gate.margins has no margin for it"
        else:
            good = facts["value"] >= published - allowed
            status, reason = (Status.PASS if good else Status.FAIL), f"{facts['value'] - published:+.1f} to the zoo"
    else:
        status, reason, against = Status.INCOMPARABLE, "nothing to hold it to", ""
    loss = _loss(settings, name, facts, evaluated, accepted)
    if loss is not None:
        bad, told = loss
        reason = f"{reason}; {told}"
        status = bad if bad is not None and status in (Status.PASS, Status.INCOMPARABLE) else status
    return Verdict(name, status, required, reason, score, against)


def _loss(
    settings: Settings, name: str, facts: dict[str, Any], evaluated: Evaluated, accepted: Accepted | None
) -> tuple[Status | None, str] | None:
    """What the accepted checkpoint says: a status where it forbids, and words; None where it has no such column."""
    if accepted is None or name not in accepted.document["columns"]:
        return None
    before = accepted.document["columns"][name]
    if before["evidence"]["rows"] != facts["evidence"]["rows"] or before["value_name"] != facts["value_name"]:
        return Status.INVALID, "its rows or its definition are not those of the accepted checkpoint"
    reader = scorer(facts["scorer"])
    old, new = (
        values_again(reader, table.filter(pl.col("column") == name))[facts["value_name"]]
        for table in (accepted.scores, evaluated.records)
    )
    evaluation = settings.evaluation
    step = difference(old, new, evaluation.bootstrap_samples, evaluation.confidence, settings.run.seed)
    columns = load_columns()
    greatest = columns[name].zoo.maximum if name in columns else 100
    allowed = evaluation.gate.regression * greatest
    told = f"{step.value:+.1f} ({step.low:+.1f} to {step.high:+.1f}) to the accepted checkpoint"
    return (Status.FAIL if step.value < -allowed else None), told
