"""Records of a benchmark as a table, and the fingerprints that say what was asked of what: the evidence of a number.

One row a question: what was asked about which picture, what the model said, what that was taken for, what it scored.
From the same table the numbers are made again, so that two checkpoints can be compared without asking anything.
"""

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from fusion.evaluate.scorers.base import Grade, Picture, Question, Record, Scorer
from fusion.hashing import file_sha256, json_sha256

SCHEMA = {
    "column": pl.String(), "question_id": pl.String(), "cluster": pl.String(), "part": pl.String(),
    "group": pl.String(), "kind": pl.String(), "asked": pl.Boolean(), "question": pl.String(), "picture": pl.String(),
    "expected": pl.String(), "raw": pl.String(), "parsed": pl.String(), "score": pl.Float64(), "other": pl.String(),
}  # fmt: skip
SHORT = ("column", "question_id", "cluster", "part", "group", "kind", "asked", "parsed", "score", "other")
"""What is enough to make the numbers again, without a word of the benchmark."""


def to_frame(column: str, records: Iterable[Record]) -> pl.DataFrame:
    """The records of one column as rows; lists and mappings as JSON texts."""
    rows = [
        (
            column, q.id, q.cluster, q.part, q.group, q.kind, q.asked, q.prompt, q.picture.name if q.picture else None,
            json.dumps(q.expected, ensure_ascii=False), record.raw, record.grade.parsed, record.grade.score,
            json.dumps(record.grade.other, sort_keys=True),
        )
        for q, record in ((record.question, record) for record in records)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def from_frame(frame: pl.DataFrame) -> list[Record]:
    """Records of rows that `to_frame` made, also with the columns of `SHORT` alone; pictures by name only."""
    found = []
    for row in frame.to_dicts():
        picture = Picture(row["picture"]) if row.get("picture") else None
        # The numbers only ask whether there is an expected answer, never which: a short table has none.
        expected = tuple(json.loads(row["expected"])) if "expected" in row else ("",)
        question = Question(
            row["question_id"], row.get("question") or "", row["cluster"], expected, picture, part=row["part"],
            group=row["group"], kind=row["kind"], asked=row["asked"],
        )  # fmt: skip
        grade = Grade(row["parsed"], row["score"], json.loads(row["other"]))
        found.append(Record(question, row.get("raw") or "", grade))
    return found


def rows_sha256(questions: Sequence[Question]) -> str:
    """One sha256 over a benchmark's rows as they are scored, with every picture's bytes, and without our instruction.

    Source: design "Evaluation": rows that changed under the same name make a number INVALID.
    """
    return json_sha256([
        [
            q.id, q.cluster, list(q.expected), _picture_sha256(q.picture), q.part, q.group, dict(q.options), q.kind,
            q.asked,
        ]
        for q in questions
    ])  # fmt: skip


def _picture_sha256(picture: Picture | None) -> str | None:
    import hashlib

    return None if picture is None else hashlib.sha256(picture.read()).hexdigest()


def prompts_sha256(rendered: Iterable[str], max_new_tokens: int) -> str:
    """One sha256 over the prompts in the template as the model gets them, in order, and the longest answer."""
    return json_sha256([max_new_tokens, *rendered])


def scorer_sha256(scorer: Scorer) -> str:
    """One sha256 over the code that makes the number: the scorer's file and what it imports of fusion.evaluate."""
    return _code_sha256(type(scorer).__module__)


@cache
def _code_sha256(module: str) -> str:
    waiting, seen = [module], {}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        path = Path(str(import_module(name).__file__))
        seen[name] = file_sha256(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fusion.evaluate"):
                waiting.append(str(node.module))
    return json_sha256(seen)


def versions() -> dict[str, str]:
    """The libraries whose release may change an answer."""
    return {name: version(name) for name in ("torch", "transformers", "pillow", "tokenizers")}


def weights_sha256(checkpoint: Path) -> dict[str, str]:
    """sha256 of each weight file of a checkpoint, by name."""
    return {path.name: file_sha256(path) for path in sorted(checkpoint.glob("*.safetensors"))}


def values_again(scorer: Scorer, frame: pl.DataFrame) -> Mapping[str, Any]:
    """The numbers of a table of records."""
    return scorer.values(from_frame(frame))
