"""MMMU: college questions of thirty subjects, with options or open.

The benchmark's own script draws a random letter, without a seed, where an answer names no option: the number changes
from run to run. Here such an answer is unparsed and wrong. A question with several pictures cannot be asked of this
model: it counts as wrong, and the column says how many those are.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fusion.evaluate.scorers.base import Grade, Question, Record, Scorer, ScoringError, by_part, share
from fusion.evaluate.scorers.files import find_rows, lettered, listed, need, picture_of, texts
from fusion.evaluate.statistics import Value
from fusion.files import write_json

CHOICE, OPEN = "multiple-choice", "open"
_PICTURE = re.compile(r"<image \d+>")
_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)
"""With commas; in scientific notation; plain."""


class Mmmu(Scorer):
    """`validation*.parquet` (or JSON lines) by subject: id, question, options, answer, question_type, image_1 ..."""

    name: ClassVar[str] = "mmmu"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """`instruction` holds both, for options and for open questions, apart by a line of dashes."""
        for_choice, _, for_open = (part.strip() for part in instruction.partition("\n---\n"))
        found = sorted({folder, *(path.parent for path in folder.glob("*/validation*"))})
        rows = [row for place in found if any(place.glob("validation*")) for row in find_rows(place, "validation")]
        if not rows:
            raise ScoringError(f"{folder} and the folders below hold no validation*.parquet")
        return [self._question(row, folder, for_choice, for_open) for row in rows]

    def _question(self, row: Mapping[str, Any], folder: Path, for_choice: str, for_open: str) -> Question:
        need(row, "id", "question", "options", "answer", "question_type", where=folder)
        kind = str(row["question_type"])
        options = lettered(_options(row["options"])) if kind == CHOICE else {}
        text = str(row["question"])
        prompt = f"{text}\n{listed(options)}\n\n{for_choice}" if kind == CHOICE else f"{text}\n\n{for_open}"
        names = sorted({match.strip("<>").replace(" ", "_") for match in _PICTURE.findall(prompt)})
        identity = str(row["id"])
        pictures = [picture_of(row.get(name), f"{identity}/{name}", folder) for name in names]
        return Question(
            identity, _PICTURE.sub("", prompt).strip(), identity, texts(_answers(row["answer"])),
            pictures[0] if len(pictures) == 1 else None, part=identity.split("_", 1)[-1].rpartition("_")[0],
            options=options, kind=kind, asked=len(pictures) <= 1,
        )  # fmt: skip

    def grade(self, question: Question, answer: str) -> Grade:
        """By the benchmark's rules, but for its random letters."""
        if question.kind == CHOICE:
            letter = _choice(answer, question.options)
            return Grade(letter, float(letter is not None and letter in question.expected))
        found = _open(answer)
        right = any(_meets(candidate, wanted) for candidate in found for wanted in _wanted(question.expected))
        return Grade(str(found[0]) if answer.strip() else None, float(right and bool(answer.strip())))

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`accuracy` over all questions, by subject, and that of the questions that could be asked."""
        asked = [record for record in records if record.question.asked]
        return {
            "accuracy": share(records),
            "one_picture": share(asked),
            **{part: share(members) for part, members in by_part(records).items()},
        }

    def submission(self, records: Sequence[Record], folder: Path) -> Path:
        """`mmmu.json`: id -> answer, as the test split's server takes it."""
        path = folder / "mmmu.json"
        write_json({record.question.id: record.grade.parsed or "" for record in records}, path)
        return path


def _options(value: Any) -> list[str]:
    """Options are a Python list written as a text."""
    try:
        found = ast.literal_eval(value) if isinstance(value, str) else list(value)
    except (ValueError, SyntaxError) as error:
        raise ScoringError(f"mmmu: {value!r} is no list of options: {error}") from None
    return [str(item) for item in found]


def _answers(value: Any) -> Any:
    """An open question's answer is one text or a list written as a text."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value


def _choice(answer: str, options: Mapping[str, str]) -> str | None:
    """A letter in brackets, set off, or with a period; else in a long answer an option's text. The last one counts."""
    text = answer
    for sign in ",.!?;:'":
        text = text.strip(sign)
    text = f" {text} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in options if form.format(letter) in text]
        if found:
            return max(found, key=lambda letter: (text.rfind(place.format(letter)), -ord(letter)))
    if len(text.split()) > 5:
        lower = text.lower()
        found = [letter for letter, option in options.items() if option.lower() in lower]
        if found:
            return max(found, key=lambda letter: (lower.rfind(options[letter].lower()), -ord(letter)))
    return None


def _open(answer: str) -> list[str | float]:
    """What an open answer may mean: its shortest tails after words like "is", and the numbers in them."""
    whole = answer.strip().strip(".").lower()
    pieces = re.split(r"\.\s(?=[A-Z])|\n", whole)
    tails = []
    for number, piece in enumerate(pieces):
        keys = (*_KEYS, "=") if number == len(pieces) - 1 else _KEYS
        ends = [piece.split(key)[-1].strip() for key in keys if key in piece]
        # An empty tail gives way to the next one, as in the benchmark's script.
        shortest = ""
        for end in ends:
            if not shortest or len(end) < len(shortest):
                shortest = end
        if shortest and shortest not in (":", ",", ".", "!", "?", ";", "'"):
            tails.append(shortest)
    tails = tails or [whole]
    numbers = [match for tail in tails for pattern in _NUMBERS for match in re.findall(pattern, tail)]
    return [item for text in [*tails, *numbers] for item in _normal(text)]


def _normal(text: str) -> list[str | float]:
    """A number rounded to two digits, or the text in small letters; a single letter with a space on either side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def _wanted(expected: Sequence[str]) -> list[str | float]:
    return [item for text in expected for item in _normal(text)]


def _meets(candidate: str | float, wanted: str | float) -> bool:
    """Numbers must be equal; a text must hold the wanted text."""
    if isinstance(candidate, str):
        return isinstance(wanted, str) and wanted in candidate
    return candidate == wanted
