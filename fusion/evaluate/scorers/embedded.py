"""Benchmarks that come with the project: one right answer, compared word for word (fusion/evaluate/score.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl

from fusion.evaluate.score import is_correct, normalize
from fusion.evaluate.scorers.base import Grade, Picture, Question, Record, Scorer, by_part, share
from fusion.evaluate.scorers.files import read_rows
from fusion.evaluate.statistics import Value


class Embedded(Scorer):
    """`questions.parquet` as the stage `benchmark` writes it; pictures lie in `images.tar` beside it."""

    name: ClassVar[str] = "embedded"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """The questions with their pictures, read from the archive by their places."""
        table = pl.DataFrame(read_rows(folder / "questions.parquet"))
        with (folder / "images.tar").open("rb") as archive:
            return [self.question(row, _at(archive, row), instruction) for row in table.to_dicts()]

    def question(self, row: dict[str, object], picture: Picture | None, instruction: str = "") -> Question:
        """A row of the table as a question."""
        return Question(
            str(row["question_id"]), f"{row['question']}{instruction}", str(row["image_id"]), (str(row["answer"]),),
            picture, part=str(row["kind"]),
        )  # fmt: skip

    def grade(self, question: Question, answer: str) -> Grade:
        """Exact match; an answer without a word is unparsed."""
        (expected,) = question.expected
        return Grade(normalize(answer) or None, float(is_correct(answer, expected)))

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`accuracy`, and that of each kind of question."""
        parts = by_part(records)
        return {"accuracy": share(records), **{part: share(members) for part, members in parts.items()}}


def _at(archive: object, row: dict[str, object]) -> Picture:
    archive.seek(row["image_offset"])  # type: ignore[attr-defined]
    return Picture(str(row["image_id"]), data=archive.read(row["image_size"]))  # type: ignore[attr-defined]
