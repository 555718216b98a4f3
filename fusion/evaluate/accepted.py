"""The accepted checkpoint of a variant: what the next one must not fall behind, in git under data/accepted/.

`fusion gate VARIANT --accept` writes it after a pass. It holds scores by question, so that the next checkpoint is
compared on the same questions, and not a word of a benchmark.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fusion.data.store.folders import output_folder, write_parquet
from fusion.errors import FusionError
from fusion.evaluate.records import SHORT
from fusion.files import write_json

FOLDER = Path("data/accepted")


class AcceptedError(FusionError):
    """The accepted checkpoint's files are broken or half there."""


@dataclass(frozen=True)
class Accepted:
    """columns.json of the accepted checkpoint, and its scores by question (the columns of `SHORT`)."""

    document: dict[str, Any]
    scores: pl.DataFrame


def read_accepted(variant: str, root: Path = Path()) -> Accepted | None:
    """None where none was accepted yet; raises `AcceptedError` where its files are not whole."""
    folder = root / FOLDER / variant
    if not folder.exists():
        return None
    try:
        document = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
        scores = pl.read_parquet(folder / "scores.parquet")
        if not isinstance(document["columns"], dict) or scores.columns != list(SHORT):
            raise ValueError("it is not in the form of `fusion gate --accept`")
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise AcceptedError(f"{folder} cannot be read ({error!r}): restore it from git") from error
    return Accepted(document, scores)


def accept(variant: str, document: dict[str, Any], records: pl.DataFrame, root: Path = Path()) -> Path:
    """Makes an evaluation the accepted one; returns its folder, which belongs into git."""
    target = root / FOLDER / variant
    with output_folder(target) as folder:
        write_json(document, folder / "columns.json")
        write_parquet(records.select(SHORT), folder / "scores.parquet")
    return target
