"""Columns and embedded benchmarks side by side, for the gate and for comparisons: columns.json, records.parquet."""

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from fusion.data.store.folders import write_parquet
from fusion.evaluate.asking import MAX_NEW_TOKENS, Ask, System
from fusion.evaluate.benchmark import Benchmark
from fusion.evaluate.benchmark_rows import benchmark_questions
from fusion.evaluate.column_run import Outcome, evidence, numbers, run_column
from fusion.evaluate.columns.entries import Column
from fusion.evaluate.records import SCHEMA, to_frame, versions
from fusion.evaluate.scorers.base import Question
from fusion.evaluate.scorers.embedded import Embedded
from fusion.files import write_json
from fusion.settings import Settings


def run_columns(
    settings: Settings,
    columns: Sequence[Column],
    system: System,
    submissions: Path,
    root: Path,
    logs: Path | None = None,
) -> dict[str, Outcome]:
    """The zoo's columns, asked one after the other of one checkpoint; `logs` as in `System.ask`."""

    def answer(name: str, questions: Sequence[Question], max_new_tokens: int, rows: str) -> dict[str, str]:
        asks = [Ask(q.id, q.prompt, q.picture.read if q.picture else None) for q in questions]
        return system.ask(asks, max_new_tokens, f"{system.name}: {name}", [name, rows], logs)

    def render(question: Question) -> str:
        return system.render(question.prompt, question.picture is not None)

    found = {}
    for column in columns:
        folder = settings.evaluation.roots.get(column.column)
        place = None if folder is None else root / folder
        ask = partial(answer, column.column)
        found[column.column] = run_column(column, place, ask, render, settings, submissions / column.column, root)
    return found


def benchmark_outcome(settings: Settings, benchmark: Benchmark, system: System, answers: pl.DataFrame) -> Outcome:
    """An embedded benchmark as a column: the answers of the trained checkpoint, which were given before, scored."""
    mine = answers.filter((pl.col("benchmark") == benchmark.name) & (pl.col("system") == system.name))
    given = dict(zip(mine["question_id"].cast(pl.String).to_list(), mine["prediction"].to_list(), strict=True))
    questions = benchmark_questions(benchmark)
    embedded = Embedded()
    scored = embedded.score(questions, given)

    def render(question: Question) -> str:
        return system.render(question.prompt, True)

    facts: dict[str, Any] = {
        "status": "VALID", "reason": None, "scorer": embedded.name, "value_name": "accuracy",
        "questions": len(questions), "expected": len(questions), "not_asked": 0, "unparsed": round(scored.unparsed, 6),
        "evidence": evidence(embedded, questions, render, MAX_NEW_TOKENS),
        **numbers(scored.values, "accuracy", settings),
    }  # fmt: skip
    return Outcome(facts, to_frame(benchmark.name, scored.records))


def write_outcomes(
    settings: Settings,
    variant: str,
    weights: Mapping[str, str],
    outcomes: Mapping[str, Outcome],
    submissions: Path,
    folder: Path,
) -> None:
    """columns.json, records.parquet and submissions.zip: no time, host or path, so that equal answers give equal bytes.

    `submissions` is the folder with the files for servers; it goes into the archive.
    """
    document = {
        "variant": variant, "weights": dict(weights), "seed": settings.run.seed, "versions": versions(),
        "confidence": settings.evaluation.confidence, "judge": settings.evaluation.judge.model,
        "columns": {name: outcome.facts for name, outcome in outcomes.items()},
    }  # fmt: skip
    write_json(document, folder / "columns.json")
    with zipfile.ZipFile(folder / "submissions.zip", "w") as archive:
        for path in sorted(path for path in submissions.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(path.relative_to(submissions).as_posix(), (1980, 1, 1, 0, 0, 0))
            archive.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)
    shutil.rmtree(submissions, ignore_errors=True)
    frames = [outcome.records for outcome in outcomes.values()]
    write_parquet(pl.concat(frames) if frames else pl.DataFrame(schema=SCHEMA), folder / "records.parquet")
