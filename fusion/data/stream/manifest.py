"""The kept samples of a data set as a table on disk that any number of ranks read without loading it.

A manifest has a row of some hundred bytes for each sample and is compressed; training needs 52 bytes of it, at random.
They are copied once into a file of rows of equal size, under the manifest's sha256 in the scratch folder, which all
ranks of a machine share. Memory does not grow with the number of samples.
Source: design "From source to batch", item 5.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fusion.data.store.folders import full_disk_named, parquet_file, readable
from fusion.data.store.sample import SourceInfo
from fusion.data.stream.errors import LoaderError
from fusion.data.stream.order import Rows
from fusion.hashing import file_sha256

ROW = np.dtype(
    [
        ("row", "<i8"), ("record_offset", "<i8"), ("image_offset", "<i8"), ("record_size", "<i4"),
        ("image_size", "<i4"), ("dataset", "<i4"), ("source", "<i4"), ("shard", "<i4"), ("turns", "<i4"),
        ("draws", "<i4"), ("tokens", "<i4"),
    ]
)  # fmt: skip
"""One sample. `image_offset` is -1 without a picture; names are positions in the lists behind the rows."""
_NAMES = ("dataset", "source", "shard")
_NUMBERS = ("row", "record_offset", "record_size", "image_offset", "image_size", "turns", "draws")
_LENGTH = np.dtype("<i8")
_PIECE = 1 << 18
_BATCH = 1 << 15
_MADE_BY = "dvc repro"

Table = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample lies: its shard, and offset and size of its record and its picture in it."""

    sample_id: str
    dataset: str
    shard: str
    record: tuple[int, int]
    image: tuple[int, int] | None


class Manifest:
    """`data/manifests/<dataset>/manifest.parquet`, by row."""

    def __init__(self, path: Path, tokenizer: str, scratch: Path) -> None:
        """Opens the manifest; the first to do so on a machine writes its table into `scratch`.

        Raises:
            LoaderError: the manifest is missing or empty, or the tokenizer was not counted.
            DataError: it is damaged.
        """
        if not path.is_file():
            raise LoaderError(f"{path} is missing: run `dvc repro` (or `fusion curate`) for its data set first")
        self._path = path
        self.sha256 = file_sha256(path)
        self._file = _opened(path, tokenizer, scratch / f"manifest-{self.sha256[:32]}-{tokenizer}")
        size = os.fstat(self._file.fileno()).st_size
        names_size = int.from_bytes(os.pread(self._file.fileno(), _LENGTH.itemsize, size - _LENGTH.itemsize), "little")
        names_start = size - _LENGTH.itemsize - names_size
        self._names: dict[str, list[str]] = json.loads(os.pread(self._file.fileno(), names_size, names_start))
        self._count = names_start // ROW.itemsize
        if not self._count:
            raise LoaderError(f"{path} keeps no sample: see the ledger beside it for the reasons")

    def __len__(self) -> int:
        return self._count

    def rows(self, indices: Rows) -> Table:
        """Rows of the table at `indices`: [n] of dtype `ROW`."""
        return self._mapped()[indices]

    def pieces(self) -> Iterator[Table]:
        """All rows in order, some hundred thousand at a time."""
        for first in range(0, self._count, _PIECE):
            # Mapped anew for each piece, so that pages that were read do not count as memory of this process.
            yield self._mapped()[first : first + _PIECE]

    def source_numbers(self, indices: Sequence[int]) -> Rows:
        """int64 [n]: which of `sources` the samples at some rows of the table belong to."""
        found: Rows = self.rows(np.asarray(indices, dtype=np.int64))["source"].astype(np.int64)
        return found

    @property
    def number_of_sources(self) -> int:
        """How many sources have kept samples."""
        return len(self._names["source"])

    def sources(self) -> list[tuple[str, str]]:
        """Name and category of every source, in the order of their numbers; reads two columns of the manifest."""
        categories: dict[str, str] = {}
        columns = ["source", "category"]
        with readable(self._path, _MADE_BY):
            file = pq.ParquetFile(self._path, read_dictionary=columns, buffer_size=1 << 16, pre_buffer=False)
            for batch in file.iter_batches(_BATCH, columns=columns, use_threads=False):
                pairs = pa.Table.from_batches([batch]).group_by(columns).aggregate([])
                categories |= {row["source"]: row["category"] for row in pairs.to_pylist()}
        return [(name, categories[name]) for name in self._names["source"]]

    def _mapped(self) -> Table:
        return np.memmap(self._file, ROW, "r", shape=(self._count,))

    def places(self, rows: Table) -> list[Place]:
        """Where the samples of some rows of the table lie."""
        datasets, sources, shards = (self._names[name] for name in _NAMES)
        found = []
        for row in rows.tolist():
            number, record, image, record_size, image_size, dataset, source, shard, *_ = row
            info = SourceInfo(datasets[dataset], sources[source], "", number)
            picture = (image, image_size) if image >= 0 else None
            found.append(Place(info.sample_id, info.dataset, shards[shard], (record, record_size), picture))
        return found

    def origins(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Where samples come from, read from the manifest itself: sample_id, dataset, source, file, row, sha256."""
        file = parquet_file(self._path, _MADE_BY)
        columns = ["sample_id", "dataset", "source", "file", "row", "sha256"]
        ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
        groups = np.searchsorted(ends, np.asarray(indices, dtype=np.int64), side="right")
        found: dict[int, dict[str, Any]] = {}
        for group in np.unique(groups):
            start = int(ends[group] - file.metadata.row_group(int(group)).num_rows)
            chosen = [index for index, own in zip(indices, groups, strict=True) if own == group]
            rows = file.read_row_group(int(group), columns).take(pa.array([index - start for index in chosen]))
            found |= dict(zip(chosen, rows.to_pylist(), strict=True))
        return [found[index] for index in indices]


def lengths(rows: Table, image_tokens: int, num_latents: int) -> Rows:
    """int64 [n]: sequence length of each of some rows of the table once its markers are replaced."""
    found: Rows = rows["tokens"] + has_picture(rows) * image_tokens + rows["turns"].astype(np.int64) * num_latents
    return found


def has_picture(rows: Table) -> npt.NDArray[np.bool_]:
    """bool [n]"""
    found: npt.NDArray[np.bool_] = rows["image_offset"] >= 0
    return found


def _opened(path: Path, tokenizer: str, table: Path) -> Any:
    """The table, opened. Whoever comes first writes it, aside and then under its name; the others wait."""
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.with_name(f"{table.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not table.is_file():
            partial = table.with_name(f"{table.name}.partial")
            with full_disk_named(table.parent), partial.open("wb") as file:
                _write(path, tokenizer, file)
            partial.rename(table)
        return table.open("rb")


def _write(path: Path, tokenizer: str, file: Any) -> None:
    tokens = f"text_tokens_{tokenizer}"
    with readable(path, _MADE_BY):
        found = pl.scan_parquet(path).collect_schema().names()
        if tokens not in found:
            raise LoaderError(
                f"{path} has no column {tokens}: add the tokenizer `{tokenizer}` to the data set's catalog entry"
            )
        names: dict[str, dict[str, int]] = {name: {} for name in _NAMES}
        # Unbuffered the reader would hold a row group's whole columns, and ahead of need those of the next ones.
        source = pq.ParquetFile(path, read_dictionary=list(_NAMES), buffer_size=1 << 16, pre_buffer=False)
        columns = [*_NAMES, *_NUMBERS, tokens]
        for batch in source.iter_batches(_BATCH, columns=columns, use_threads=False):
            rows = np.empty(len(batch), dtype=ROW)
            for name in _NUMBERS:
                rows[name] = _numbers(batch.column(name))
            rows["tokens"] = _numbers(batch.column(tokens))
            for name in _NAMES:
                column = batch.column(name)
                known = [names[name].setdefault(text, len(names[name])) for text in column.dictionary.to_pylist()]
                rows[name] = np.array(known, dtype=np.int32)[column.indices.to_numpy(zero_copy_only=False)]
            file.write(rows.data)
    pa.default_memory_pool().release_unused()
    document = json.dumps({name: list(known) for name, known in names.items()}).encode()
    file.write(document + len(document).to_bytes(_LENGTH.itemsize, "little"))


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    filled: npt.NDArray[Any] = column.fill_null(-1).to_numpy(zero_copy_only=False)
    return filled
