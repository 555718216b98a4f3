"""Benchmarks whose questions have lettered options and whose number is a share of right letters."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from fusion.evaluate.scorers.base import Grade, Question, Record, Scorer, by_part, mean_score, share
from fusion.evaluate.scorers.files import find_rows, lettered, listed, need, picture_of, read_document
from fusion.evaluate.scorers.letters import letter_of
from fusion.evaluate.statistics import Value

_LISTED = re.compile(r"(?:^|\n)\(?([A-Z])[.)]\s*(.+)")
"""An option on a line of its own in the question's text."""


class Letters(Scorer):
    """Reading of letters, and the share of right ones in all and by part."""

    def grade(self, question: Question, answer: str) -> Grade:
        """The named option; without options, the answer word for word."""
        if not question.options:
            text = answer.strip().rstrip(".").lower()
            return Grade(text or None, float(text in (expected.lower() for expected in question.expected)))
        letter = letter_of(answer, question.options)
        return Grade(letter, float(letter is not None and letter in question.expected))

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`accuracy`, and that of each part."""
        parts = by_part(records)
        return {"accuracy": share(records)} | ({p: share(m) for p, m in parts.items()} if len(parts) > 1 else {})


class Ai2d(Letters):
    """Diagrams; rows of question, options, answer (a number from 0) and image, as parquet or JSON lines."""

    name: ClassVar[str] = "ai2d"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """The data names no diagram, so each question stands for itself in the bootstrap."""
        questions = []
        for number, row in enumerate(find_rows(folder, "test")):
            need(row, "question", "options", "answer", "image", where=folder)
            options = lettered(list(row["options"]))
            questions.append(
                Question(
                    str(number), f"{row['question']}\n{listed(options)}{instruction}", str(number),
                    (list(options)[int(row["answer"])],), picture_of(row["image"], f"{number}.png", folder),
                    options=options,
                )
            )  # fmt: skip
        return questions


class RealWorldQa(Letters):
    """Pictures from cars and streets; rows of question (with its options and instruction), answer and image."""

    name: ClassVar[str] = "realworldqa"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """The answer is a letter, a number or a word."""
        questions = []
        for number, row in enumerate(find_rows(folder, "test")):
            need(row, "question", "answer", "image", where=folder)
            text, answer = str(row["question"]).strip(), str(row["answer"]).strip()
            options = dict(_LISTED.findall(text)) if len(answer) == 1 and answer.isalpha() else {}
            questions.append(
                Question(
                    str(number), text + instruction, str(number), (answer.upper() if options else answer,),
                    picture_of(row["image"], f"{number}.webp", folder), options=options,
                )
            )  # fmt: skip
        return questions


class MmStar(Letters):
    """Questions that need the picture; rows of index, question (with options), answer, category, l2_category, image."""

    name: ClassVar[str] = "mmstar"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """The part is the finer category, over which lmms-eval's average goes."""
        questions = []
        for row in find_rows(folder, "val", "mmstar", "MMStar"):
            need(row, "index", "question", "answer", "l2_category", "image", where=folder)
            identity = str(row["index"])
            options = _inline(str(row["question"])) or dict.fromkeys("ABCD", "")
            questions.append(
                Question(
                    identity, str(row["question"]).strip() + instruction, identity,
                    (str(row["answer"]).strip().upper(),),
                    picture_of(row["image"], f"{identity}.jpg", folder), part=str(row["l2_category"]), options=options,
                )
            )  # fmt: skip
        return questions

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`accuracy` of all questions, and `category_mean`: lmms-eval's, where each finer category weighs the same."""
        parts = by_part(records)
        mean = Value(tuple(mean_score(members, 100.0 / len(parts)) for members in parts.values()))
        return {"accuracy": share(records), "category_mean": mean, **{p: share(m) for p, m in parts.items()}}


class SeedImage(Letters):
    """SEED-Bench's questions about pictures: `SEED-Bench.json`, pictures in `SEED-Bench-image/`."""

    name: ClassVar[str] = "seed_image"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """Video questions are left out."""
        document = read_document(folder / "SEED-Bench.json")
        need(document, "questions", where=folder / "SEED-Bench.json")
        questions = []
        for row in document["questions"]:
            need(row, "question_id", "data_id", "data_type", "question", "answer", where=folder)
            if row["data_type"] != "image":
                continue
            options = {letter.upper(): str(row[f"choice_{letter}"]) for letter in "abcd"}
            questions.append(
                Question(
                    str(row["question_id"]), f"{row['question']}\n{listed(options)}{instruction}", str(row["data_id"]),
                    (str(row["answer"]),),
                    picture_of(f"SEED-Bench-image/{row['data_id']}", str(row["data_id"]), folder),
                    part=str(row.get("question_type_id", "")), options=options,
                )
            )  # fmt: skip
        return questions


class MmeRealWorld(Letters):
    """Large pictures, five options of which (E) declines: `MME_RealWorld*.json`, pictures at `Image`."""

    name: ClassVar[str] = "mme_realworld"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """Options come as "(A) text"."""
        questions = []
        for row in find_rows(folder, "MME_RealWorld", "MME-RealWorld"):
            need(row, "Question_id", "Image", "Text", "Answer choices", "Ground truth", where=folder)
            options = {choice[1]: choice[3:].strip() for choice in map(str, row["Answer choices"])}
            choices = "\n".join(row["Answer choices"])
            name = str(row["Image"])
            questions.append(
                Question(
                    str(row["Question_id"]),
                    f"{row['Text']} The choices are listed below:\n{choices}\n{instruction}", name,
                    (str(row["Ground truth"]),), picture_of(name, name, folder), part=str(row.get("Task", "")),
                    options=options,
                )
            )  # fmt: skip
        return questions


def _inline(text: str) -> dict[str, str]:
    """Options in a question's text, `A: one, B: two`, or one a line."""
    lines = dict(_LISTED.findall(text))
    if len(lines) > 1:
        return lines
    found: dict[str, str] = {}
    _, _, tail = text.partition("Options:")
    for match in re.finditer(r"([A-E]):\s*(.*?)(?=,\s*[A-E]:|\Z)", tail, re.DOTALL):
        found[match.group(1)] = match.group(2).strip(" .\n")
    return found
