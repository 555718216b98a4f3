"""MMVP: pairs of pictures that CLIP sees alike, with the same question and opposite answers.

The zoo's number is the share of right answers (its values only fit that). The benchmark's paper counts pairs; both are
reported. lmms-eval's copy of the data corrects four answers, so its number may differ from one on the original file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from fusion.evaluate.scorers.base import Grade, Picture, Question, Record, Scorer, ScoringError, all_right, share
from fusion.evaluate.scorers.files import find_rows, inside, listed, need
from fusion.evaluate.scorers.letters import letter_of
from fusion.evaluate.statistics import Value

_OPTION = r"\(([a-z])\)\s*([^(]+?)\s*(?=\([a-z]\)|$)"


class Mmvp(Scorer):
    """`Questions.csv`: Index (from 1), Question, Options "(a) x (b) y", Correct Answer; pictures in `MMVP Images/`."""

    name: ClassVar[str] = "mmvp"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """Questions 2k - 1 and 2k are a pair."""
        import re

        questions = []
        for row in find_rows(folder, "Questions"):
            need(row, "Index", "Question", "Options", "Correct Answer", where=folder)
            index = int(row["Index"])
            options = {letter.upper(): text for letter, text in re.findall(_OPTION, str(row["Options"]), re.IGNORECASE)}
            expected = str(row["Correct Answer"]).strip(" ()").upper()
            if expected not in options:
                raise ScoringError(f"{folder}: question {index}: the answer {expected} is no option")
            pair = str((index - 1) // 2)
            name = f"{index}.jpg"
            picture = Picture(name, path=inside(folder / "MMVP Images", name))
            prompt = f"{row['Question']}\n{listed(options)}{instruction}"
            questions.append(Question(str(index), prompt, pair, (expected,), picture, group=pair, options=options))
        return questions

    def grade(self, question: Question, answer: str) -> Grade:
        """The named option; small letters in brackets, as the benchmark writes them, count too."""
        letter = letter_of(answer, question.options)
        return Grade(letter, float(letter is not None and letter in question.expected))

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`single` (published) and `pair`. Raises `ScoringError` for half a pair."""
        pairs = [record.question.group for record in records]
        half = sorted({pair for pair in pairs if pairs.count(pair) != 2})
        if half:
            raise ScoringError(f"mmvp: of pair {', '.join(half[:5])} one question is missing")
        return {"single": share(records), "pair": Value((all_right(records, lambda record: record.question.group),))}
