"""Any table of pictures and texts as a source: CSV, TSV, parquet or JSON, with the columns that its entry names.

Ingest reads annotation files, so the table is written out as one first, row by row in the table's order: row n of the
source is row n of the table, header not counted. The copy lies in scratch/tables/; a changed table is copied again.
"""

import difflib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from fusion.data.errors import IngestError
from fusion.data.ingest.csv_rows import read_cells
from fusion.data.ingest.json_stream import read_records
from fusion.data.ingest.origin import Layout, PublishedOrigin
from fusion.data.ingest.record import UNREADABLE, Reject
from fusion.data.store.resume import code_sha256

SCRATCH = Path("scratch/tables")
_JSON = (".json", ".jsonl", ".ndjson")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_QUOTES = {".csv": '"', ".tsv": ""}
"""TSV has none: in most such files a double quote is a sign like any other, for example after a number of inches."""
_MARKER = "<image>"
_SWALLOWED = "texts with separators behind a line end: if a quote is not closed, whole rows stand in them"
_QUOTED = "texts in double quotes: if the table was written with quotes, set `quote: '\"'` in the entry"
_UNFINISHED = ".unfinished-"
_CODE = ("data/origins/table.py", "data/ingest")
"""What a copy depends on, besides the table and the entry."""
_SHOWN = 20
_MANY_KEYS = 1000
_BATCH = 1000


class Table(PublishedOrigin):
    """`file` = the table, `images` = image folders or archives, in the data set's folder (params.yaml, data.roots).

    The other keys name columns: `image` (a picture's path in `images`; null = text only), `id`, and either `text`, a
    caption that is asked for with one of `prompts` after the other, or `question` and `answer`.
    `separator` and `quote` (empty = none) are for CSV and TSV.
    """

    kind: ClassVar[str] = "table"
    file: str
    images: list[str] = Field(default=["images"], min_length=1)
    image: str | None = "image"
    id: str | None = None
    text: str | None = None
    question: str | None = None
    answer: str | None = None
    prompts: list[str] = Field(default=["Describe the picture."], min_length=1)
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    quote: str | None = Field(default=None, max_length=1)

    @model_validator(mode="after")
    def _one_form(self) -> "Table":
        if (self.text is not None) == (self.answer is not None) or (self.question is None) != (self.answer is None):
            raise ValueError("name either the column `text`, or both columns `question` and `answer`")
        if not self.file.lower().endswith((*_SEPARATORS, *_JSON, ".parquet")):
            raise ValueError(f"`file` must end in {', '.join((*_SEPARATORS, *_JSON, '.parquet'))}")
        return self

    def layout(self, folder: str | None) -> Layout:
        """The table as an annotation file, and its pictures.

        Raises:
            IngestError: no folder is given, the table is missing or cannot be read, or it has no such column.
        """
        if folder is None:
            raise IngestError(f"{self.file}: give the folder of this data set in params.yaml (data.roots)")
        base = Path(folder)
        if not base.is_dir():
            raise IngestError(f"data.roots in params.yaml names {base}, which is not a folder")
        if not (base / self.file).is_file():
            raise IngestError(f"the table {base / self.file} is missing")
        images = tuple(name for name in self.images if "images" in self.model_fields_set or (base / name).exists())
        return Layout(base, {"kind": "folder"}, str(self._annotations(base / self.file)), images, (self.file,))

    def columns(self) -> list[str]:
        """The columns that the entry names."""
        named = (self.id, self.image, self.text, self.question, self.answer)
        return list(dict.fromkeys(name for name in named if name is not None))

    def signs(self) -> dict[str, re.Pattern[str]]:
        """Texts with rows inside them, or with the quotes that should be around them."""
        ending = Path(self.file.lower()).suffix
        if ending not in _SEPARATORS:
            return {}
        separator, quote = self._signs(ending)
        if quote:
            return {_SWALLOWED: re.compile(rf"\n[^\n]*{re.escape(separator)}")}
        return {_QUOTED: re.compile(r'(?s)"[^"].*"')}

    def _annotations(self, table: Path) -> Path:
        """The table's copy as JSON lines; the one that is there, if table, entry and code are the same."""
        facts = table.stat()
        identity = json.dumps([str(table.resolve()), self.model_dump(mode="json")], sort_keys=True)
        folder = (SCRATCH / hashlib.sha256(identity.encode()).hexdigest()[:16]).absolute()
        code = code_sha256(_CODE, {"pyarrow": pa.__version__})[:16]
        made = folder / f"{table.name}.{facts.st_size}-{facts.st_mtime_ns}-{code}" / f"{table.name}.jsonl"
        if made.is_file():
            return made
        made.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        handle, name = tempfile.mkstemp(dir=made.parent, prefix=_UNFINISHED)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            self._write(table, Path(name))
            os.replace(name, made)
        finally:
            os.close(handle)
            Path(name).unlink(missing_ok=True)
        for older in folder.glob("*/*.jsonl"):
            if older != made:
                older.unlink()
        return made

    def _write(self, table: Path, target: Path) -> None:
        with target.open("w", encoding="ascii") as file:
            try:
                file.writelines(json.dumps(record) + "\n" for record in self._records(table))
            except UnicodeDecodeError as error:
                told = f"{table} is not UTF-8 ({error.reason})"
                raise IngestError(f"{told}: save it as UTF-8, for example with iconv -f latin1 -t utf-8") from None
            except pa.ArrowException as error:
                raise IngestError(f"{table} cannot be read: {str(error)[:200]}") from error

    def _rows(self, table: Path) -> Iterator[Any]:
        ending = Path(table.name.lower()).suffix
        if ending in _JSON:
            return read_records(table)
        if ending == ".parquet":
            return self._parquet(table)
        return self._cells(table, *self._signs(ending))

    def _signs(self, ending: str) -> tuple[str, str]:
        """Separator and quote."""
        return self.separator or _SEPARATORS[ending], _QUOTES[ending] if self.quote is None else self.quote

    def _cells(self, table: Path, separator: str, quote: str) -> Iterator[dict[str, str | None] | Reject]:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = read_cells(file, separator, quote)
            header = next(rows, None)
            if not isinstance(header, list):
                raise IngestError(f"{table} is empty: its first line must name the columns")
            self._check(table, header)
            for cells in rows:
                yield (
                    cells
                    if isinstance(cells, Reject)
                    else dict(zip(header, (cell or None for cell in cells), strict=True))
                )

    def _parquet(self, table: Path) -> Iterator[dict[str, Any]]:
        with pq.ParquetFile(table) as file:
            schema = file.schema_arrow
            self._check(table, schema.names)
            for name in self.columns():
                kind = schema.field(name).type
                if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                    raise IngestError(
                        f"{table}: column `{name}` holds {kind}, where names or texts are needed: write pictures "
                        "out as files and their names into the table"
                    )
            for batch in file.iter_batches(batch_size=_BATCH, columns=self.columns()):
                yield from batch.to_pylist()

    def _check(self, table: Path, names: list[str]) -> None:
        for name in self.columns():
            if name not in names:
                raise IngestError(f"{table} has no column `{name}`{_near(name, names)}")

    def _records(self, table: Path) -> Iterator[Any]:
        missing, keys = set(self.columns()), set[str]()
        for number, row in enumerate(self._rows(table)):
            if isinstance(row, Reject):
                yield {UNREADABLE: row.evidence}  # ingest rejects it with these words
                continue
            if not isinstance(row, dict):
                yield row  # ingest rejects it with this reason
                continue
            if not number and all(isinstance(row.get(name), dict) for name in self.columns()):
                raise IngestError(
                    f"{table} is written column by column, where one object a row is needed: with pandas, "
                    f'df.to_json({table.name!r}, orient="records")'
                )
            missing -= row.keys()
            keys.update(islice(row, _SHOWN))
            question = _as_text(row.get(self.question) if self.question else self.prompts[number % len(self.prompts)])
            image = _as_text(row.get(self.image)) if self.image is not None else None
            # A question needs no picture; a caption without one describes nothing, and is rejected for its marker.
            marked = self.image is not None and (self.text is not None or image not in (None, "", []))
            if marked and isinstance(question, str) and _MARKER not in question:
                question = f"{_MARKER}\n{question}"
            answer = _as_text(row.get(self.text or self.answer))
            record: dict[str, Any] = {
                "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            }
            if self.image is not None:
                record["image"] = image
            if self.id is not None:
                record["id"] = _as_text(row.get(self.id))
            yield record
            if len(keys) > _MANY_KEYS:
                keys = set(islice(sorted(keys), _SHOWN))
        if missing and keys:
            name = min(missing)
            raise IngestError(f"no row of {table} has `{name}`{_near(name, sorted(keys))}")


def _remove_abandoned(folder: Path) -> None:
    """Removes copies whose writers were killed: nobody holds their locks any more."""
    for path in folder.glob(f"*/{_UNFINISHED}*"):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            path.unlink(missing_ok=True)


def _as_text(value: Any) -> Any:
    """Numbers, dates and the like as text, NaN as None; the rest as it is: ingest rejects what is no text."""
    if value is None or isinstance(value, (str, bool, list, dict)):
        return value
    return None if value != value else str(value)


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, cutoff=0.6)
    listed = ", ".join(f"`{item}`" for item in known[:_SHOWN])
    return (f"; did you mean `{close[0]}`?" if close else "") + f" Its columns: {listed}"
