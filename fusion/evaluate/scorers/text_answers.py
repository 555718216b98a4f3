"""ChartQA, DocVQA and OCRBench: a short text, compared loosely in each one's own way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from fusion.evaluate.scorers.base import Grade, Picture, Question, Record, Scorer, ScoringError, by_part, share
from fusion.evaluate.scorers.files import find_rows, inside, need, picture_of, read_document, read_rows, texts
from fusion.evaluate.statistics import Value
from fusion.files import write_json


class ChartQa(Scorer):
    """`test_human.json` and `test_augmented.json`: imgname, query, label; pictures in `png/`."""

    name: ClassVar[str] = "chartqa"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """Questions about one chart are drawn together."""
        questions = []
        for part in ("human", "augmented"):
            path = folder / f"test_{part}.json"
            for number, row in enumerate(read_rows(path)):
                need(row, "imgname", "query", "label", where=path)
                name = str(row["imgname"])
                questions.append(
                    Question(
                        f"{part}/{number}", row["query"] + instruction, name, (str(row["label"]),),
                        Picture(name, path=inside(folder / "png", name)), part=part,
                    )
                )  # fmt: skip
        return questions

    def grade(self, question: Question, answer: str) -> Grade:
        """Numbers within 5%, other answers equal but for case."""
        (expected,) = question.expected
        return Grade(answer.strip() or None, float(relaxed(answer, expected)))

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`relaxed`, and that of the questions by people and by machine."""
        return {"relaxed": share(records), **{part: share(members) for part, members in by_part(records).items()}}


def relaxed(answer: str, expected: str, tolerance: float = 0.05) -> bool:
    """Relaxed accuracy (arXiv 2203.10244, 5.1). A percent sign divides by a hundred; a 0 must be met as text."""
    given, wanted = _number(answer), _number(expected)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= tolerance
    return answer.lower() == expected.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


class DocVqa(Scorer):
    """`val_v1.0*.json`: questionId, question, image, docId, answers; pictures at `image`."""

    name: ClassVar[str] = "docvqa"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """Questions about one document are drawn together; a test split has no answers."""
        found = sorted([*folder.glob("val_v1.0*.json"), *folder.glob("test_v1.0*.json")])
        if not found:
            raise ScoringError(f"{folder} holds no val_v1.0*.json or test_v1.0*.json")
        document: Any = read_document(found[-1])
        need(document, "data", where=found[-1])
        questions = []
        for row in document["data"]:
            need(row, "questionId", "question", "image", where=found[-1])
            name = str(row["image"])
            questions.append(
                Question(
                    str(row["questionId"]), row["question"] + instruction, str(row.get("docId", name)),
                    tuple(map(str, row.get("answers") or ())), Picture(name, path=inside(folder, name)),
                )
            )  # fmt: skip
        return questions

    def grade(self, question: Question, answer: str) -> Grade:
        """ANLS against the nearest of the answers."""
        scores = [anls(answer, expected) for expected in question.expected]
        return Grade(answer.strip() or None, max(scores, default=0.0))

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`anls`, in percent."""
        if any(not record.question.expected for record in records):
            raise ScoringError("docvqa: the test split has no answers: only its server can score the submission file")
        return {"anls": share(records)}

    def submission(self, records: Sequence[Record], folder: Path) -> Path:
        """`docvqa.json`: a list of questionId and answer."""
        path = folder / "docvqa.json"
        rows = [{"questionId": int(r.question.id), "answer": r.raw} for r in records]
        write_json(rows, path)
        return path


def anls(answer: str, expected: str, threshold: float = 0.5) -> float:
    """1 - edit distance / length of the longer, 0 below the threshold; case and spaces aside (arXiv 1907.00490)."""
    given, wanted = (" ".join(text.strip().lower().split()) for text in (answer, expected))
    longer = max(len(answer.upper()), len(expected.upper()))  # as the benchmark measures: the two may differ
    similarity = 1.0 - (edit_distance(given, wanted) / longer if longer else 0.0)
    return similarity if similarity >= threshold else 0.0


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions and replacements that turn `a` into `b` (Levenshtein)."""
    before = list(range(len(b) + 1))
    for row, left in enumerate(a, 1):
        current = [row]
        for column, right in enumerate(b, 1):
            current.append(min(before[column] + 1, current[-1] + 1, before[column - 1] + (left != right)))
        before = current
    return before[-1]


class OcrBench(Scorer):
    """`OCRBench.json`: dataset_name, image_path, question, answers, type, id; pictures at `image_path`."""

    name: ClassVar[str] = "ocrbench"

    def read(self, folder: Path, instruction: str) -> list[Question]:
        """The part is the kind of question; the data set decides how its answer is compared."""
        questions = []
        for number, row in enumerate(find_rows(folder, "OCRBench", "test")):
            need(row, "question", where=folder)
            answers = row.get("answers", row.get("answer"))
            name = str(row.get("image_path") or f"{number}.jpg")
            questions.append(
                Question(
                    str(row.get("id", number)), str(row["question"]).strip() + instruction, name, texts(answers),
                    picture_of(row.get("image") or name, name, folder),
                    part=str(row.get("type", row.get("question_type"))),
                    kind=str(row.get("dataset_name", row.get("dataset", ""))),
                )
            )  # fmt: skip
        return questions

    def grade(self, question: Question, answer: str) -> Grade:
        """Right if an expected text is in the answer: spaces and case count only in formulas (HME100k: no spaces)."""
        formula = question.kind == "HME100k"
        given = _formula(answer) if formula else _plain(answer)
        wanted = [_formula(text) if formula else _plain(text) for text in question.expected]
        return Grade(answer.strip() or None, float(any(text in given for text in wanted)))

    def values(self, records: Sequence[Record]) -> dict[str, Value]:
        """`score`: percent of all points (1000 questions: points / 10), and that of each kind."""
        return {"score": share(records), **{part: share(members) for part, members in by_part(records).items()}}


_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def _plain(text: str) -> str:
    return text.translate(_HALF_WIDTH).lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")
