"""MMBench, English and Chinese: each question is asked once for every turn of its options, and counts if all are right.

Rows of one question share `index` modulo a million. The benchmark's server and lmms-eval let a judge read an answer
that names no option, and draw a random letter when the judge fails. Here such an answer is unparsed, and wrong.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from fusion.evaluate.scorers.base import Grade, Question, Record, Scorer, ScoringError, all_right, by_part, share
from fusion.evaluate.scorers.files import find_rows, listed, need, picture_of
from fusion.evaluate.scorers.letters import letter_of
from fusion.evaluate.scorers.sheets import write_sheet
from fusion.evaluate.statistics import Value

TURN = 1_000_000
OPTIONS = "There are several options:"


class MmBench(Scorer):
    """`mmbench*.tsv` (or the same columns as parquet or JSON lines), the picture as base64 in column `image`."""

    name: ClassVar[str] = "mmbench"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """A picture that is a number stands for that of the row with this index, as in the published files."""
        rows = find_rows(folder, "mmbench", "MMBench", "dev", "test")
        for row in rows:
            need(row, "index", "question", "image", "A", "B", where=folder)
        pictures = {str(row["index"]): row["image"] for row in rows}
        questions = []
        for row in rows:
            index = int(row["index"])
            options = {letter: str(row[letter]) for letter in "ABCDE" if _there(row.get(letter))}
            hint = f"{row['hint']} " if _there(row.get("hint")) else ""
            image = row["image"]
            if isinstance(image, str) and image in pictures:
                image = pictures[image]
            base = str(index % TURN)
            questions.append(
                Question(
                    str(index), f"{hint}{row['question']} {OPTIONS}\n{listed(options)}{instruction}", base,
                    (str(row["answer"]),) if _there(row.get("answer")) else (),
                    picture_of(image, f"{base}.jpg", folder),
                    part=str(row.get("l2-category") or row.get("category") or ""), group=base, options=options,
                )
            )  # fmt: skip
        return questions

    def grade(self, question: Question, answer: str) -> Grade:
        """The named option."""
        letter = letter_of(answer, question.options)
        return Grade(letter, float(letter is not None and letter in question.expected))

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`circular` (published), `plain` (each question as it is asked first), and circular by category."""
        if any(not record.question.expected for record in records):
            raise ScoringError("mmbench: the test split has no answers: only its server can score the submission file")
        first = [record for record in records if int(record.question.id) < TURN]
        lost = {record.question.group for record in records} - {record.question.group for record in first}
        if lost:
            raise ScoringError(f"mmbench: the first turn of {', '.join(sorted(lost)[:5])} is missing")
        return {
            "circular": Value((all_right(records, _group),)),
            "plain": share(first),
            **{f"circular {part}": Value((all_right(members, _group),)) for part, members in by_part(records).items()},
        }

    def submission(self, records: Sequence[Record], folder: Path) -> Path:
        """`mmbench.xlsx`: index, question, options, answer given."""
        path = folder / "mmbench.xlsx"
        letters = "ABCDE"
        rows: list[list[str | int]] = [
            [int(q.id), q.prompt.split(f" {OPTIONS}")[0], *(q.options.get(letter, "") for letter in letters), raw]
            for q, raw in ((record.question, record.raw) for record in records)
        ]
        write_sheet(path, ["index", "question", *letters, "prediction"], rows)
        return path


def _group(record: Record) -> str:
    return record.question.group


def _there(value: Any) -> bool:
    """Whether a cell of the table holds something: it may be empty, "nan" or a NaN."""
    return not (value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() in ("", "nan"))
