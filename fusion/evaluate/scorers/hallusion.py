"""HallusionBench: yes-no questions about pictures and their altered versions.

Three numbers: all answers (aAcc), figures with all answers right (fAcc), questions right for all figures (qAcc). The
column is read as the mean of the three. The benchmark lets a judge compare free answers; here an answer is yes or no by
its first word that is one of these, and unparsed otherwise.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from fusion.evaluate.scorers.base import Grade, Picture, Question, Record, Scorer, all_right, by_part, mean_score, share
from fusion.evaluate.scorers.files import find_rows, inside, need, picture_of
from fusion.evaluate.statistics import Value

_WORD = re.compile(r"\b(yes|no)\b")


class HallusionBench(Scorer):
    """`HallusionBench.json` and the pictures at `filename`; rows without a picture (visual_input "0") are left out."""

    name: ClassVar[str] = "hallusion_bench"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """A set of figures is drawn together: its questions and its figures cross."""
        questions = []
        for row in find_rows(folder, "HallusionBench", "image"):
            keys = ("category", "subcategory", "set_id", "figure_id", "question_id")
            need(row, *keys, "question", "gt_answer", where=folder)
            if str(row.get("visual_input", "1")) == "0":
                continue
            place = [str(row[key]) for key in keys]
            name = str(row.get("filename") or "/".join(place[:4]))
            picture = picture_of(row["image"], name, folder) if row.get("image") else None
            questions.append(
                Question(
                    "/".join(place), row["question"] + instruction, "/".join(place[:3]),
                    ("yes" if str(row["gt_answer"]) == "1" else "no",),
                    picture or Picture(name, path=inside(folder, name)), part=place[0],
                )
            )  # fmt: skip
        return questions

    def grade(self, question: Question, answer: str) -> Grade:
        """`other["holds_yes"]`: as lmms-eval's rule without a judge, where any "yes" in the answer counts as yes."""
        found = _WORD.search(answer.lower())
        said = found.group(1) if found else None
        holds = "yes" if "yes" in answer.lower() else "no"
        return Grade(said, float(said in question.expected), {"holds_yes": float(holds in question.expected)})

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`mean`, `aAcc`, `fAcc`, `qAcc`, and the three by the rule without a judge."""
        third = 100.0 / 3.0
        return {
            "mean": Value(
                (mean_score(records, third), all_right(records, _figure, third), all_right(records, _asked, third))
            ),
            "aAcc": share(records),
            "fAcc": Value((all_right(records, _figure),)),
            "qAcc": Value((all_right(records, _asked),)),
            "holds_yes_aAcc": share(records, of="holds_yes"),
            "holds_yes_fAcc": Value((all_right(records, _figure, of="holds_yes"),)),
            "holds_yes_qAcc": Value((all_right(records, _asked, of="holds_yes"),)),
            **{f"aAcc {part}": share(members) for part, members in by_part(records).items()},
        }


def _figure(record: Record) -> str:
    return record.question.id.rpartition("/")[0]


def _asked(record: Record) -> str:
    *before, _, question = record.question.id.split("/")
    return "/".join([*before, question])
