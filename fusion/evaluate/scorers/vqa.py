"""VizWiz and TextVQA: each question has ten answers of people, and an answer counts by how many of them it meets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from fusion.evaluate.scorers.base import Grade, Picture, Question, Record, Scorer, ScoringError, share
from fusion.evaluate.scorers.files import find_rows, inside, need, read_document
from fusion.evaluate.scorers.vqa_text import vqa_text
from fusion.evaluate.statistics import Value
from fusion.files import write_json


def soft_accuracy(answer: str, people: Sequence[str]) -> float:
    """Mean over the people of min(1, matches among the others / 3): 1 from four matches on. `answer` as `vqa_text`."""
    given = [vqa_text(text) for text in people]
    matches = given.count(answer)
    shares = [min(1.0, (matches - (text == answer)) / 3.0) for text in given]
    return sum(shares) / len(shares)


class SoftVqa(Scorer):
    """What the two have in common."""

    def grade(self, question: Question, answer: str) -> Grade:
        """The soft accuracy; an empty answer is unparsed."""
        parsed = vqa_text(answer)
        return Grade(parsed or None, soft_accuracy(parsed, question.expected) if question.expected else 0.0)

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`accuracy`, in percent. Raises `ScoringError` for a split without answers: its server scores it."""
        if any(not record.question.expected for record in records):
            raise ScoringError(f"{self.name}: this split has no answers: only its server can score the submission file")
        return {"accuracy": share(records)}


class VizWiz(SoftVqa):
    """Questions of blind people; `val.json`, or `test.json` without answers, and the pictures in `images/`."""

    name: ClassVar[str] = "vizwiz"
    split: ClassVar[str] = "val"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """One question a picture; what people answered with little confidence counts as the others do."""
        rows = find_rows(folder, self.split)
        where = folder / f"{self.split}.json"
        questions = []
        for row in rows:
            need(row, "image", "question", where=where)
            people = tuple(str(item["answer"]) for item in row.get("answers") or ())
            name = str(row["image"])
            questions.append(
                Question(
                    name, f"{row['question'].capitalize()}{instruction}", name, people, _picture(folder, name),
                    part=str(row.get("answer_type", "")),
                )
            )  # fmt: skip
        return questions

    def submission(self, records: Sequence[Record], folder: Path) -> Path:
        """`vizwiz.json`: a list of image and answer."""
        path = folder / "vizwiz.json"
        write_json([{"image": r.question.id, "answer": r.grade.parsed or ""} for r in records], path)
        return path


class TextVqa(SoftVqa):
    """Text in pictures; `TextVQA_0.5.1_val.json`, and the pictures in `train_images/`."""

    name: ClassVar[str] = "textvqa"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """Several questions may share a picture."""
        found = sorted(folder.glob("TextVQA_*_val.json"))
        if not found:
            raise ScoringError(f"{folder} holds no TextVQA_*_val.json")
        document: Any = read_document(found[-1])
        need(document, "data", where=found[-1])
        questions = []
        for row in document["data"]:
            need(row, "question_id", "image_id", "question", where=found[-1])
            name = str(row["image_id"])
            questions.append(
                Question(
                    str(row["question_id"]), f"{row['question'].capitalize()}{instruction}", name,
                    tuple(map(str, row.get("answers") or ())), _picture(folder, f"{name}.jpg", "train_images"),
                )
            )  # fmt: skip
        return questions

    def submission(self, records: Sequence[Record], folder: Path) -> Path:
        """`textvqa.json`: a list of question_id and answer."""
        path = folder / "textvqa.json"
        rows = [
            {
                "question_id": int(r.question.id) if r.question.id.isdigit() else r.question.id,
                "answer": r.grade.parsed or "",
            }
            for r in records
        ]
        write_json(rows, path)
        return path


def _picture(folder: Path, name: str, below: str = "images") -> Picture:
    return Picture(name, path=inside(folder / below, name))
