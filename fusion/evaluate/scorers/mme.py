"""MME: two questions a picture, one with the answer yes and one with no; accuracy plus the share of pictures with both.

Perception is the sum over ten subtasks (at most 2000), cognition over four (at most 800).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from fusion.evaluate.scorers.base import (
    Grade,
    Picture,
    Question,
    Record,
    Scorer,
    ScoringError,
    all_right,
    by_part,
    mean_score,
)
from fusion.evaluate.statistics import Term, Value

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
ITS_OWN = " Please answer yes or no."
"""What the benchmark ends each question with; the column's instruction stands in its place."""
PICTURES = (".jpg", ".png", ".jpeg")


class Mme(Scorer):
    """One folder a subtask: pictures, and beside each (or in `questions_answers_YN/`) a text of two lines."""

    name: ClassVar[str] = "mme"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """Each line of a text is a question, a tab and Yes or No."""
        questions = []
        for task in (*PERCEPTION, *COGNITION):
            texts = sorted({*(folder / task).glob("*.txt"), *(folder / task / "questions_answers_YN").glob("*.txt")})
            if not texts:
                raise ScoringError(
                    f"{folder / task} holds no question: MME has the subtasks {', '.join(PERCEPTION)}, ..."
                )
            for path in texts:
                picture = _picture(path, folder / task)
                lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
                if len(lines) != 2:
                    raise ScoringError(f"{path} has {len(lines)} questions: MME has two a picture")
                for number, line in enumerate(lines):
                    text, tab, label = line.rpartition("\t")
                    label = label.strip().lower().replace(".", "")
                    if not tab or label not in ("yes", "no"):
                        raise ScoringError(f"{path}: line {number + 1} is not a question, a tab, and Yes or No")
                    prompt = text.strip().replace(ITS_OWN, "") + instruction if instruction else text.strip()
                    group = f"{task}/{path.stem}"
                    questions.append(
                        Question(f"{group}/{number}", prompt, group, (label,), picture, part=task, group=group)
                    )
        return questions

    def grade(self, question: Question, answer: str) -> Grade:
        """Yes or no from the first four letters, as the benchmark does; anything else is unparsed."""
        text = answer.lower().strip().replace(".", "")
        start = text[:4]
        said = next((word for word in ("yes", "no") if word in start), None) or {"y": "yes", "n": "no"}.get(text)
        return Grade(said, float(said in question.expected))

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`perception`, `cognition`, and each subtask's sum of acc and acc+ (at most 200)."""
        parts = by_part(records)
        missing = [task for task in (*PERCEPTION, *COGNITION) if task not in parts]
        if missing:
            raise ScoringError(f"mme: no question of {', '.join(missing)}: the sums would lack them")
        found = {task: Value(_task(parts[task])) for task in (*PERCEPTION, *COGNITION)}
        return {
            "perception": Value(tuple(term for task in PERCEPTION for term in found[task].terms)),
            "cognition": Value(tuple(term for task in COGNITION for term in found[task].terms)),
            **found,
        }


def _task(records: Sequence[Record]) -> tuple[Term, Term]:
    sizes = Counter(record.question.group for record in records)
    odd = [name for name, size in sizes.items() if size != 2]
    if odd:
        raise ScoringError(f"mme: {', '.join(sorted(odd)[:5])}: a picture must have two questions")
    return mean_score(records, 100.0), all_right(records, lambda record: record.question.group)


def _picture(text: Path, task: Path) -> Picture:
    for folder in (text.parent, task / "images", task):
        for ending in PICTURES:
            path = folder / f"{text.stem}{ending}"
            if path.is_file():
                return Picture(f"{task.name}/{path.name}", path=path)
    raise ScoringError(f"{text} has no picture beside it or in {task / 'images'}")
