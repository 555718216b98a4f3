"""MathVista testmini: figures and numbers, with options or free.

The benchmark lets a judge take the answer out of the words, and then compares the option nearest in spelling. Here the
answer must name an option or end in a number; else it is unparsed and wrong. So the number is not the published one.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from fusion.evaluate.scorers.base import Grade, Picture, Question, Record, Scorer, by_part, share
from fusion.evaluate.scorers.files import inside, lettered, need, read_document
from fusion.evaluate.scorers.letters import letter_of
from fusion.evaluate.statistics import Value

_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:[eE][+-]?\d+)?")


class MathVista(Scorer):
    """`testmini.json`: id -> question, image, choices, answer, question_type, answer_type, precision, unit, query."""

    name: ClassVar[str] = "math_vista"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """`query` is the benchmark's own prompt, with its hint."""
        path = folder / "testmini.json"
        document: Any = read_document(path)
        questions = []
        for identity, row in document.items():
            need(row, "question", "image", "answer", "question_type", "answer_type", where=path)
            choice = row["question_type"] == "multi_choice"
            options = lettered(row.get("choices") or []) if choice else {}
            kind = "choice" if choice else f"{row['answer_type']}:{int(row.get('precision') or 0)}"
            name = str(row["image"])
            questions.append(
                Question(
                    str(identity), str(row.get("query") or row["question"]) + instruction, name, (str(row["answer"]),),
                    Picture(name, path=inside(folder, name)), part=str(row.get("metadata", {}).get("task", "")),
                    options=options, kind=kind,
                )
            )  # fmt: skip
        return questions

    def grade(self, question: Question, answer: str) -> Grade:
        """An option, or the last number, rounded as the question says."""
        if question.options:
            letter = letter_of(answer, question.options)
            return Grade(letter, float(letter is not None and question.options[letter] in question.expected))
        kind, _, digits = question.kind.partition(":")
        (expected,) = question.expected
        if kind == "list":
            found = re.findall(r"\[[^\]]*\]", answer)
            said = found[-1] if found else None
        else:
            numbers = [match.replace(",", "").rstrip(".") for match in _NUMBER.findall(answer)]
            said = _rounded(numbers[-1], kind, int(digits)) if numbers else None
        return Grade(said, float(said == expected.strip()))

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`accuracy`, and that of each task."""
        return {"accuracy": share(records), **{part: share(m) for part, m in by_part(records).items() if part}}


def _rounded(number: str, kind: str, digits: int) -> str:
    value = float(number)
    return str(int(value)) if kind == "integer" else str(round(value, digits))
