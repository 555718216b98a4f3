"""One column: its questions read, asked, scored and checked. What goes wrong makes it INVALID, with the reason."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fusion.errors import FusionError
from fusion.evaluate.columns.entries import Column
from fusion.evaluate.judge import Judge
from fusion.evaluate.records import prompts_sha256, rows_sha256, scorer_sha256, to_frame
from fusion.evaluate.scorers.base import Question, Record, Scored, Scorer
from fusion.evaluate.scorers.judged import JudgedScorer, write_answers
from fusion.evaluate.statistics import Value, estimate
from fusion.model.template import SampleError
from fusion.settings import Settings

Answerer = Callable[[Sequence[Question], int, str], Mapping[str, str]]
"""Answers by question id, for questions, the longest answer in tokens, and the sha256 of the rows they are of."""
Renderer = Callable[[Question], str]
"""The prompt in the template, as the model gets it."""


@dataclass(frozen=True)
class Outcome:
    """What a column gave: `facts` for columns.json, and a row of evidence for each question."""

    facts: dict[str, Any]
    records: pl.DataFrame


def run_column(
    column: Column,
    folder: Path | None,
    answer: Answerer,
    render: Renderer,
    settings: Settings,
    submissions: Path,
    root: Path = Path(),
) -> Outcome:
    """Asks and scores one column. Only a fault of ours is raised; all that the data, the model or the judge do wrong is
    the reason of an INVALID column."""
    facts: dict[str, Any] = {"expected": column.questions, "scorer": column.scorer, "value_name": column.value}
    try:
        if folder is None:
            raise FusionError(f"evaluation.roots in params.yaml names no folder for {column.column}")
        if not folder.is_dir():
            raise FusionError(f"{folder} is not there: it must hold {column.files}")
        scorer = column.scores_with
        questions = scorer.read(folder, column.instruction)
        facts["questions"] = len(questions)
        if len(questions) != column.questions:
            raise FusionError(f"{len(questions)} questions in {folder}, and the column has {column.questions}")
        facts["evidence"] = evidence(scorer, questions, render, column.max_new_tokens)
        asked = [question for question in questions if question.asked]
        answers = answer(asked, column.max_new_tokens, facts["evidence"]["rows"])
        scored = _scored(scorer, questions, answers, settings, submissions, facts, root)
        if not isinstance(scorer, JudgedScorer):
            _submit(scorer, scored.records, submissions)
        facts |= numbers(scored.values, column.value, settings)
        facts["unparsed"] = round(scored.unparsed, 6)
        facts["not_asked"] = len(questions) - len(asked)
    except (FusionError, SampleError) as error:
        return Outcome({**facts, "status": "INVALID", "reason": str(error)}, to_frame(column.column, ()))
    return Outcome({**facts, "status": "VALID", "reason": None}, to_frame(column.column, scored.records))


def evidence(scorer: Scorer, questions: Sequence[Question], render: Renderer, max_new_tokens: int) -> dict[str, str]:
    """sha256 of rows (pictures included), rendered prompts and scorer code."""
    asked = [question for question in questions if question.asked]
    return {
        "rows": rows_sha256(questions),
        "prompts": prompts_sha256(map(render, asked), max_new_tokens),
        "scorer": scorer_sha256(scorer),
    }


def numbers(values: Mapping[str, Value], chosen: str, settings: Settings) -> dict[str, Any]:
    """The column's number with its interval, and all others of the scorer."""
    found = estimate(
        values[chosen], settings.evaluation.bootstrap_samples, settings.evaluation.confidence, settings.run.seed
    )
    return {
        "value": round(found.value, 4), "low": round(found.low, 4), "high": round(found.high, 4),
        "error": round(found.error, 4), "clusters": len(values[chosen].clusters),
        # A number without units (no question of a kind) is left out: JSON has no word for it.
        "others": {n: round(v.point, 4) for n, v in values.items() if n != chosen and v.point == v.point},
    }  # fmt: skip


def _scored(
    scorer: Scorer,
    questions: Sequence[Question],
    answers: Mapping[str, str],
    settings: Settings,
    submissions: Path,
    facts: dict[str, Any],
    root: Path,
) -> Scored:
    if not isinstance(scorer, JudgedScorer):
        return scorer.score(questions, answers)
    # Before the judge is asked: its answers can be judged elsewhere, whatever becomes of ours.
    submissions.mkdir(parents=True, exist_ok=True)
    if scorer.name == "mm_vet":
        write_answers(answers, submissions)
    judge = Judge(settings.evaluation.judge, root)
    records: list[Record] = []
    try:
        for question in questions:
            asked = scorer.prompt(question, answers[question.id])
            words = judge.ask(asked, lambda text: scorer.verdict(text) is not None)
            records.append(Record(question, answers[question.id], scorer.judged(question, answers[question.id], words)))
    finally:
        facts["judge"] = {
            "model": settings.evaluation.judge.model, "failed": len(records) < len(questions),
            "verdicts": len(records), "calls": judge.behind, "failures": judge.behind - len(records),
        }  # fmt: skip
    return Scored(tuple(records), scorer.values(records))


def _submit(scorer: Scorer, records: Sequence[Record], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scorer.submission(records, folder)
