"""POPE: is an object in the picture? Yes or no, over three ways to choose the objects that are not there.

The published number is the mean of the three F1s (random, popular, adversarial), each answer taken by its first
sentence: yes unless it holds "no" or "not". lmms-eval's F1 is one over all questions, and only for answers that are
"yes" or "no" word for word: all others drop out of it, so that wrong answers may raise it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from fusion.evaluate.scorers.base import Grade, Picture, Question, Record, Scorer, ScoringError, by_part, share
from fusion.evaluate.scorers.files import find_rows, inside, need
from fusion.evaluate.statistics import Term, Value, ratio

SPLITS = ("random", "popular", "adversarial")


class Pope(Scorer):
    """`coco_pope_<split>.json` of the three splits, and COCO's val2014 pictures in `val2014/`."""

    name: ClassVar[str] = "pope"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """Ids are unique in a split only, so they begin with its name."""
        questions = []
        for split in SPLITS:
            for row in find_rows(folder, f"coco_pope_{split}"):
                need(row, "question_id", "image", "text", "label", where=folder)
                label, image = str(row["label"]).strip().lower(), str(row["image"])
                if label not in ("yes", "no"):
                    raise ScoringError(f"{folder}: {split} question {row['question_id']} has the label {label!r}")
                picture = Picture(image, path=inside(folder / "val2014", image))
                identity = f"{split}/{row['question_id']}"
                questions.append(Question(identity, row["text"] + instruction, image, (label,), picture, part=split))
        return questions

    def grade(self, question: Question, answer: str) -> Grade:
        """Yes or no by the first sentence; what says neither is unparsed, and counts as the yes it is taken for."""
        first = answer.split(".")[0].replace(",", "").lower().split()
        said = "no" if "no" in first or "not" in first else "yes"
        (expected,) = question.expected
        exact = answer.lower().strip()
        return Grade(
            said if said == "no" or "yes" in first else None,
            float(said == expected),
            # The four cells of either definition: true and false, positive and negative.
            {
                "yes": float(said == "yes"), "truth": float(expected == "yes"),
                "exact_yes": float(exact == "yes"), "exact_no": float(exact == "no"), "exact": float(exact == expected),
            },
        )  # fmt: skip

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`f1_mean` (published), `f1`, `accuracy`, `yes_share`; `lmms_f1` and `lmms_accuracy` by lmms-eval."""
        parts = by_part(records)
        missing = [split for split in SPLITS if split not in parts]
        if missing:
            raise ScoringError(f"pope: no question of {', '.join(missing)}: the number is the mean of three F1s")
        return {
            "f1_mean": Value(tuple(_f1(parts[split], 100.0 / len(SPLITS)) for split in SPLITS)),
            "f1": Value((_f1(records, 100.0),)),
            **{f"f1_{split}": Value((_f1(parts[split], 100.0),)) for split in SPLITS},
            "accuracy": share(records),
            "yes_share": share(records, of="yes"),
            "lmms_f1": Value((_lmms_f1(records),)),
            "lmms_accuracy": share(records, of="exact"),
        }


def _f1(records: Sequence[Record], scale: float) -> Term:
    """2 TP / (2 TP + FP + FN), which is 2 TP / (answers yes + truths yes)."""
    cells = ((r.grade.other["yes"], r.grade.other["truth"], r.cluster) for r in records)
    return ratio(((2 * yes * truth, yes + truth, cluster) for yes, truth, cluster in cells), scale)


def _lmms_f1(records: Sequence[Record]) -> Term:
    """The same where a miss must be a plain "no": the truth counts only for answers that are "yes" or "no"."""
    cells = (
        (r.grade.other["exact_yes"], r.grade.other["exact_no"], r.grade.other["truth"], r.cluster) for r in records
    )
    return ratio(((2 * yes * truth, yes + truth * (yes + no), cluster) for yes, no, truth, cluster in cells), 100.0)
