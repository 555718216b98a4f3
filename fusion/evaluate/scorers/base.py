"""What a scorer is: reads a benchmark's own files, grades one answer, and makes the column's numbers of all grades.

A scorer is a pure function of (questions, answers). It never guesses: an answer that says nothing it knows is unparsed
and wrong, and the share of those is reported. The random letter that other tools put in its place is the reason.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from fusion.errors import FusionError
from fusion.evaluate.statistics import Term, Value, mean


class ScoringError(FusionError):
    """Answers and questions do not fit together, or a benchmark's files are not what its format says."""


@dataclass(frozen=True)
class Picture:
    """A picture of a benchmark: its name in the records, and where its bytes are: a file, or here."""

    name: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)

    def read(self) -> bytes:
        """The encoded picture; raises `ScoringError` naming the file that is missing."""
        if self.data is not None:
            return self.data
        assert self.path is not None, "a picture has a path or bytes"
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ScoringError(
                f"picture {self.path} cannot be read ({error.strerror}): is the data complete?"
            ) from None


@dataclass(frozen=True)
class Question:
    """One question as it is asked and graded.

    Attributes:
        id: unique in its benchmark.
        prompt: what the model is asked, with the column's instruction, without the picture's place.
        cluster: what is drawn together in the bootstrap: a picture, a pair.
        expected: the right answer, or all answers that people gave.
        picture: None for a question without one.
        part: category, split or source, where numbers are made by part.
        group: questions that count only together (a pair, the turns of one circular question).
        options: letter -> text of a multiple choice question.
        kind: for benchmarks with several kinds of questions (MMMU: multiple-choice, open).
        asked: False where the model cannot be asked at all (several pictures); the question counts as wrong.
    """

    id: str
    prompt: str
    cluster: str
    expected: tuple[str, ...]
    picture: Picture | None = None
    part: str = ""
    group: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    asked: bool = True


@dataclass(frozen=True)
class Grade:
    """What an answer was taken for (None: nothing that the scorer knows), its score, and `other` definitions' score."""

    parsed: str | None
    score: float
    other: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """The evidence of one question: what was asked, what the model said, what that was taken for, what it scored."""

    question: Question
    raw: str
    grade: Grade

    @property
    def score(self) -> float:
        """By the column's own definition."""
        return self.grade.score

    @property
    def cluster(self) -> str:
        """Of the question."""
        return self.question.cluster


@dataclass(frozen=True)
class Scored:
    """A benchmark's records and numbers. `values` has the column's and all others that the scorer defines."""

    records: tuple[Record, ...]
    values: Mapping[str, Value]

    @property
    def unparsed(self) -> float:
        """Share of answers that were taken for nothing, between 0 and 1."""
        return sum(record.grade.parsed is None for record in self.records) / len(self.records)


class Scorer(ABC):
    """One benchmark. A subclass in a file of this folder is known by its `name`."""

    name: ClassVar[str]

    @abstractmethod
    def read(self, folder: Path, instruction: str) -> list[Question]:
        """The questions in its own files; raises `ScoringError` for what is missing or in another format."""

    @abstractmethod
    def grade(self, question: Question, answer: str) -> Grade:
        """One answer."""

    @abstractmethod
    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """All numbers that the scorer defines, by name."""

    def submission(self, records: Sequence[Record], folder: Path) -> Path | None:
        """Writes the file that the benchmark's server takes and returns its path; None where there is no server."""
        return None

    def score(self, questions: Sequence[Question], answers: Mapping[str, str]) -> Scored:
        """Records in the questions' order, and the numbers. Raises `ScoringError`: answers missing or unknown."""
        if not questions:
            raise ScoringError(f"{self.name}: there is no question")
        ids = [question.id for question in questions]
        if len(set(ids)) != len(ids):
            twice = sorted({name for name in ids if ids.count(name) > 1})[:5]
            raise ScoringError(f"{self.name}: question {', '.join(twice)} stands there twice")
        missing = [question.id for question in questions if question.asked and question.id not in answers]
        unknown = sorted(set(answers) - set(ids))
        if missing or unknown:
            told = [f"{len(missing)} answers are missing ({', '.join(missing[:5])})"] * bool(missing)
            told += [f"{len(unknown)} belong to no question ({', '.join(unknown[:5])})"] * bool(unknown)
            raise ScoringError(f"{self.name}: {'; '.join(told)}")
        records = tuple(
            Record(question, answers[question.id], self.grade(question, answers[question.id]))
            if question.asked
            else Record(question, "", Grade(None, 0.0))
            for question in questions
        )
        return Scored(records, self.values(records))


def share(records: Iterable[Record], scale: float = 100.0, of: str | None = None) -> Value:
    """Mean score x scale; `of` names another definition's score."""
    return Value((mean_score(records, scale, of),))


def mean_score(records: Iterable[Record], scale: float, of: str | None = None) -> Term:
    """The same as a term of a larger sum."""
    return mean(((r.score if of is None else r.grade.other[of], r.cluster) for r in records), scale)


def all_right(
    records: Iterable[Record], key: Callable[[Record], str], scale: float = 100.0, of: str | None = None
) -> Term:
    """Share of groups in which every score is 1. A group must lie in one cluster, or `ScoringError`."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    units = []
    for name, members in groups.items():
        if len({member.cluster for member in members}) > 1:
            raise ScoringError(f"the questions of group {name} lie in several clusters: they must be drawn together")
        scores = [m.score if of is None else m.grade.other[of] for m in members]
        units.append((float(all(score == 1.0 for score in scores)), members[0].cluster))
    return mean(units, scale)


def by_part(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by part, parts sorted."""
    parts: dict[str, list[Record]] = {}
    for record in records:
        parts.setdefault(record.question.part, []).append(record)
    return dict(sorted(parts.items()))
