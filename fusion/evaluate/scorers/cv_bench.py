"""CV-Bench: spatial questions with options, from three sources.

The published definition weighs 2D and 3D alike: half the mean of ADE20K and COCO, half Omni3D. lmms-eval's `cv_bench`
reports the share of all questions instead, and reads a letter out of any word ("Apple" is an A).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from fusion.evaluate.scorers.base import Grade, Question, Record, Scorer, ScoringError, by_part, mean_score, share
from fusion.evaluate.scorers.files import find_rows, lettered, need, picture_of
from fusion.evaluate.scorers.letters import letter_of
from fusion.evaluate.statistics import Value

SOURCES = ("ADE20K", "COCO", "Omni3D")


class CvBench(Scorer):
    """`test*.jsonl` or `test*.parquet`: idx, filename, source, choices, answer ("(A)"), prompt; pictures by name."""

    name: ClassVar[str] = "cv_bench"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """The benchmark's own `prompt` lists the options already; the instruction stands before it."""
        questions = []
        for row in find_rows(folder, "test"):
            need(row, "idx", "source", "choices", "answer", "prompt", where=folder)
            options = lettered(list(row["choices"]))
            name = str(row.get("filename") or f"{row['idx']}.png")
            before = instruction.format(", ".join(options))
            picture = picture_of(row.get("image") or name, name, folder)
            questions.append(
                Question(
                    str(row["idx"]), before + row["prompt"], name, (str(row["answer"]).strip("() "),), picture,
                    part=str(row["source"]), options=options,
                )
            )  # fmt: skip
        return questions

    def grade(self, question: Question, answer: str) -> Grade:
        """The named option."""
        letter = letter_of(answer, question.options)
        return Grade(letter, float(letter is not None and letter in question.expected))

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`by_source` (published), `micro` (lmms-eval's), and the share of each source."""
        parts = by_part(records)
        if set(parts) != set(SOURCES):
            raise ScoringError(f"cv_bench: the sources are {', '.join(parts)}; the number needs {', '.join(SOURCES)}")
        weights = {"ADE20K": 25.0, "COCO": 25.0, "Omni3D": 50.0}
        return {
            "by_source": Value(tuple(mean_score(parts[source], weights[source]) for source in SOURCES)),
            "micro": share(records),
            **{source: share(parts[source]) for source in SOURCES},
        }
