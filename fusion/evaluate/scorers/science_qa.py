"""ScienceQA, the questions with a picture: an option's letter, or a sentence "The answer is A."."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from fusion.evaluate.scorers.base import Grade, Picture, Question, Record, Scorer, by_part, share
from fusion.evaluate.scorers.files import inside, lettered, listed, need, read_document
from fusion.evaluate.statistics import Value
from fusion.files import write_json


class ScienceQa(Scorer):
    """`problems.json`, `pid_splits.json`, and the pictures in `images/test/<id>/`."""

    name: ClassVar[str] = "science_qa"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """The test split's questions that have a picture."""
        problems, splits = read_document(folder / "problems.json"), read_document(folder / "pid_splits.json")
        need(splits, "test", where=folder / "pid_splits.json")
        questions = []
        for identity in map(str, splits["test"]):
            need(problems, identity, where=folder / "problems.json")
            row = problems[identity]
            need(row, "question", "choices", "answer", where=folder / "problems.json")
            if not row.get("image"):
                continue
            options = lettered(row["choices"])
            context = f"Context: {row['hint']}\n" if row.get("hint") else ""
            name = f"{identity}/{row['image']}"
            questions.append(
                Question(
                    identity, f"{context}{row['question']}\n{listed(options)}{instruction}", identity,
                    (list(options)[row["answer"]],), Picture(name, path=inside(folder / "images" / "test", name)),
                    part=str(row.get("subject", "")), options=options,
                )
            )  # fmt: skip
        return questions

    def grade(self, question: Question, answer: str) -> Grade:
        """A letter, "B. text", or one "The answer is B."; nothing else counts, as in the published script."""
        letter = _letter(answer.strip(), question.options)
        lmms = answer.strip()
        strict = lmms.upper() if len(lmms) == 1 else lmms[0] if lmms[1:2] == "." and lmms[0].isupper() else None
        return Grade(letter, float(letter in question.expected), {"lmms": float(strict in question.expected)})

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`accuracy`, by subject, and `lmms_accuracy`, which takes no sentence."""
        return {
            "accuracy": share(records),
            "lmms_accuracy": share(records, of="lmms"),
            **{part: share(members) for part, members in by_part(records).items() if part},
        }

    def submission(self, records: Sequence[Record], folder: Path) -> Path:
        """`science_qa.json`: answers by problem id."""
        path = folder / "science_qa.json"
        write_json({record.question.id: record.raw for record in records}, path)
        return path


def _letter(answer: str, options: Mapping[str, str]) -> str | None:
    if answer.upper() in options:
        return answer.upper()
    if answer[:1] in options and answer[1:2] == ".":
        return answer[0]
    said = re.findall(r"[Tt]he answer is \(?([A-Z])\)?\b", answer)
    return said[0] if len(said) == 1 and said[0] in options else None
