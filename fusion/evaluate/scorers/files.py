"""Benchmark files as rows: JSON, JSON lines, CSV, TSV and parquet, each row a mapping."""

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion.evaluate.scorers.base import Picture, ScoringError

csv.field_size_limit(sys.maxsize)
ROW_FILES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")


def read_document(path: Path) -> Any:
    """A JSON file; raises `ScoringError` naming it when it is missing or broken."""
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise ScoringError(f"{path} is not valid JSON: {error}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ScoringError(
            f"{path} cannot be read ({error.strerror}): see `fusion columns` for what is needed"
        ) from None
    except UnicodeDecodeError as error:
        raise ScoringError(f"{path} is not UTF-8: {error}") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file by its ending; a JSON file holds a list of objects, or one object a line as in JSON lines."""
    if path.suffix == ".parquet":
        import polars as pl

        if not path.is_file():
            raise ScoringError(f"{path} is missing: see `fusion columns` for what is needed")
        return pl.read_parquet(path).to_dicts()
    text = _text(path)
    if path.suffix in (".csv", ".tsv"):
        return list(csv.DictReader(text.splitlines(keepends=True), delimiter="," if path.suffix == ".csv" else "\t"))
    if path.suffix == ".json" and text.lstrip().startswith("["):
        rows = read_document(path)
    else:
        rows = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except ValueError as error:
                    raise ScoringError(f"{path}: line {number} is not valid JSON: {error}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise ScoringError(f"{path} must hold objects")
    return rows


def find_rows(folder: Path, *stems: str) -> list[dict[str, Any]]:
    """The rows of all files in `folder` whose name begins with one of `stems` and ends as a table, in sorted order."""
    found = [
        path
        for path in sorted(folder.glob("*"))
        if path.suffix in ROW_FILES and any(path.name.startswith(stem) for stem in stems)
    ]
    if not found:
        raise ScoringError(f"{folder} holds no {' or '.join(f'{stem}*' for stem in stems)} ({', '.join(ROW_FILES)})")
    return [row for path in found for row in read_rows(path)]


def need(row: Mapping[str, Any], *keys: str, where: Path) -> None:
    """Raises `ScoringError` naming the keys that a row lacks."""
    lacking = [key for key in keys if key not in row]
    if lacking:
        raise ScoringError(f"{where}: a row has no {', '.join(lacking)}; it has {', '.join(map(str, row))}")


def picture_of(value: Any, name: str, folder: Path) -> Picture | None:
    """A picture column of any of the formats: bytes of the `datasets` library, base64 text, or a file name."""
    if value is None or value == "":
        return None
    if isinstance(value, Mapping):
        data = value.get("bytes")
        return Picture(str(value.get("path") or name), data=data) if data else None
    if isinstance(value, bytes):
        return Picture(name, data=value)
    if isinstance(value, str) and len(value) > 200:
        import base64
        import binascii

        try:
            return Picture(name, data=base64.b64decode(value, validate=True))
        except binascii.Error as error:
            raise ScoringError(f"{folder}: picture of {name} is no base64: {error}") from None
    return Picture(str(value), path=inside(folder, str(value)))


def inside(folder: Path, name: str) -> Path:
    """The path of a file that a benchmark names; raises `ScoringError` if it leads out of its folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ScoringError(f"{folder}: the picture {name} lies outside of the folder")
    return path


def texts(value: Any) -> tuple[str, ...]:
    """One text or a list of them, as texts."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (str(value),)
    return tuple(str(item) for item in value)


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Options by letter: A, B, C, ..."""
    return {chr(ord("A") + number): str(text) for number, text in enumerate(options)}


def listed(options: Mapping[str, str]) -> str:
    """Options one a line, as `A. text`."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())
