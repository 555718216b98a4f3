"""Benchmarks with free answers, which another model judges: MM-Vet and LLaVA-Bench in the wild.

A judge's word is read strictly: what is not the form that was asked for is a failure, and a column with one failure is
INVALID. A judge that is not there does not make a 0, as in other tools, nor a 100. The prompts are this project's own,
so the numbers are not those of the benchmarks' own judges; for MM-Vet the file that its evaluator takes is written too.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fusion.evaluate.scorers.base import (
    Grade,
    Picture,
    Question,
    Record,
    Scorer,
    ScoringError,
    by_part,
    mean_score,
    share,
)
from fusion.evaluate.scorers.files import inside, need, read_document, read_rows
from fusion.evaluate.statistics import Term, Value, ratio
from fusion.files import write_json


class JudgedScorer(Scorer):
    """A scorer whose grades come from a judge's words."""

    @abstractmethod
    def prompt(self, question: Question, answer: str) -> str:
        """What the judge is asked about one answer."""

    @abstractmethod
    def verdict(self, text: str) -> Mapping[str, float] | None:
        """The numbers in the judge's words, `score` among them; None where it did not answer what was asked."""

    def grade(self, question: Question, answer: str) -> Grade:
        """Raises `ScoringError`: nothing is graded here without a judge."""
        raise ScoringError(f"{self.name}: needs a judge: set evaluation.judge in params.yaml")

    def judged(self, question: Question, answer: str, text: str) -> Grade:
        """The grade of an answer by the judge's words. Raises `ScoringError` where they cannot be read."""
        found = self.verdict(text)
        if found is None:
            raise ScoringError(f"{self.name}: question {question.id}: the judge's words cannot be read: {text[:80]!r}")
        return Grade(answer.strip() or None, found["score"], {k: v for k, v in found.items() if k != "score"})


class MmVet(JudgedScorer):
    """`mm-vet.json`: id -> imagename, question, answer (with <AND> and <OR>), capability; pictures in `images/`."""

    name: ClassVar[str] = "mm_vet"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """The part is the set of capabilities that a question needs."""
        path = folder / "mm-vet.json"
        document: Any = read_document(path)
        questions = []
        for identity, row in document.items():
            need(row, "imagename", "question", "answer", "capability", where=path)
            name = str(row["imagename"])
            questions.append(
                Question(
                    identity, f"{row['question']}{instruction}", name, (str(row["answer"]),),
                    Picture(name, path=inside(folder / "images", name)), part="+".join(sorted(row["capability"])),
                )
            )  # fmt: skip
        return questions

    def prompt(self, question: Question, answer: str) -> str:
        """Asks for one number between 0 and 1."""
        (expected,) = question.expected
        return (
            "Grade an answer about a picture that you do not see. The reference holds what a right answer says: parts "
            "joined by <AND> are all needed, of parts joined by <OR> one is enough.\n\n"
            f"Question: {question.prompt}\nReference: {expected}\nAnswer: {answer}\n\n"
            "Reply with one number from 0.0 (nothing right) to 1.0 (all right), with one digit after the point, and "
            "nothing else."
        )

    def verdict(self, text: str) -> Mapping[str, float] | None:
        """One number from 0 to 1, alone."""
        found = re.fullmatch(r"(0(?:\.\d+)?|1(?:\.0+)?)\.?", text.strip())
        return {"score": float(found.group(1))} if found else None

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`score`, in percent, and that of each set of capabilities."""
        return {"score": share(records), **{part: share(members) for part, members in by_part(records).items()}}

    def submission(self, records: Sequence[Record], folder: Path) -> Path:
        """`mm-vet.json`: id -> answer, which the benchmark's own evaluator takes."""
        return write_answers({record.question.id: record.raw for record in records}, folder)


def write_answers(answers: Mapping[str, str], folder: Path) -> Path:
    """MM-Vet's answers without a judge having seen them."""
    path = folder / "mm-vet.json"
    write_json(dict(answers), path)
    return path


class LlavaWild(JudgedScorer):
    """`questions.jsonl`, `context.jsonl`, `answers_gpt4.jsonl` and the pictures in `images/`."""

    name: ClassVar[str] = "llava_wild"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """`expected` is the reference answer and the description that the judge is shown in place of the picture."""
        contexts = {str(row["image"]): row for row in read_rows(folder / "context.jsonl")}
        references = {str(row["question_id"]): row for row in read_rows(folder / "answers_gpt4.jsonl")}
        questions = []
        for row in read_rows(folder / "questions.jsonl"):
            need(row, "question_id", "image", "text", "category", where=folder / "questions.jsonl")
            identity, name = str(row["question_id"]), str(row["image"])
            if identity not in references or name not in contexts:
                raise ScoringError(f"{folder}: question {identity} has no reference answer or no context")
            questions.append(
                Question(
                    identity, row["text"] + instruction, name,
                    (str(references[identity]["text"]), str(contexts[name].get("caption", contexts[name].get("text")))),
                    Picture(name, path=inside(folder / "images", name)), part=str(row["category"]),
                )
            )  # fmt: skip
        return questions

    def prompt(self, question: Question, answer: str) -> str:
        """Asks for two numbers from 1 to 10: the reference's and the answer's."""
        reference, context = question.expected
        return (
            "Grade two answers to a question about a picture, of which you have this description.\n\n"
            f"Description: {context}\n\nQuestion: {question.prompt}\n\nAnswer 1: {reference}\n\nAnswer 2: {answer}\n\n"
            "Judge helpfulness, relevance, accuracy and detail, whatever the order and the length. Reply with two "
            "numbers from 1 to 10, for answer 1 and answer 2, apart by a space, and nothing else."
        )

    def verdict(self, text: str) -> Mapping[str, float] | None:
        """Two numbers from 1 to 10 on the first line; words may follow on others."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)[\s,]+(\d+(?:\.\d+)?)", text.strip().partition("\n")[0].strip())
        if not found:
            return None
        reference, own = float(found.group(1)), float(found.group(2))
        good = 1.0 <= reference <= 10.0 and 1.0 <= own <= 10.0
        return {"score": own, "reference": reference} if good else None

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`relative`: our points in percent of the reference's, in all and by category; `points` of ours, of 10."""
        return {
            "relative": Value((_relative(records),)),
            "points": Value((mean_score(records, 1.0),)),
            **{part: Value((_relative(members),)) for part, members in by_part(records).items()},
        }


def _relative(records: Sequence[Record]) -> Term:
    return ratio(((r.score, r.grade.other["reference"], r.cluster) for r in records), 100.0)
