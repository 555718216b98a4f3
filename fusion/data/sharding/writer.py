"""What sharding writes: tar shards, and the index that says where each sample lies in them and what it measures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from fusion.data.errors import DataError
from fusion.data.sharding.prepare import Prepared
from fusion.data.store.growing import GrowingTable, write_row_groups
from fusion.data.store.ledger import LedgerRows, write_grown_ledger
from fusion.data.store.resume import Resumable
from fusion.data.store.tars import TarWriter

INDEX = "index.parquet"
REJECTS = "rejects.parquet"
_MEGABYTE = 1_000_000
_ROW_GROUP = 20_000
_BATCH = 2000
_GROWING_INDEX, _GROWING_REJECTS = "index.arrow", "rejects.arrow"


def index_schema(tokenizers: list[str]) -> pa.Schema:
    """Columns of index.parquet; `structure` holds what curation's schema block will object to, or null."""
    counts = [(f"{kind}_tokens_{name}", pa.int32()) for name in tokenizers for kind in ("text", "instruct")]
    return pa.schema(
        [
            ("sample_id", pa.string()),
            ("dataset", pa.string()),
            ("source", pa.string()),
            ("file", pa.string()),
            ("row", pa.int64()),
            ("shard", pa.string()),
            ("record_offset", pa.int64()),
            ("record_size", pa.int64()),
            ("image_offset", pa.int64()),
            ("image_size", pa.int64()),
            ("image_path", pa.string()),
            ("sha256", pa.string()),
            ("text_sha256", pa.string()),
            ("image_sha256", pa.string()),
            ("pdq", pa.binary(32)),
            ("pdq_quality", pa.int32()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("contrast", pa.float32()),
            ("colours", pa.binary(48)),
            ("turns", pa.int32()),
            *counts,
            ("answer_chars", pa.int32()),
            ("category", pa.string()),
            ("licence_declared", pa.string()),
            ("licence_verified", pa.string()),
            ("structure", pa.string()),
        ]
    )


class ShardWriter:
    """Shards, index and rejects of one source, side by side; nothing is kept in memory for longer than a batch."""

    def __init__(
        self,
        work: Resumable,
        place: Path,
        source: str,
        megabytes: float,
        schema: pa.Schema,
        state: Mapping[str, Any],
        first: int = 0,
        folder: str = "",
    ) -> None:
        """Continues from `state`, which `save` has told, {} at the start.

        Args:
            work: holds the files while they grow.
            place: the folder of the shards as the index names it.
            source: their source.
            megabytes: size from which on a shard is full.
            schema: of the index.
            state: what to continue from.
            first: number of the first shard.
            folder: where the files are in `work`, with a slash at the end.
        """
        self._work = work
        self._folder = folder
        self._place = place
        self._limit = megabytes * _MEGABYTE
        self._schema = schema
        self._first = first
        self.rows: int = state.get("rows", 0)
        """Samples written and rejected."""
        self.shards: list[str] = list(state.get("shards", []))
        self._tar = TarWriter(work.append(folder + self.shards[-1])) if state.get("open") else None
        self._index = GrowingTable(work.append(folder + _GROWING_INDEX), schema)
        self._rejects = LedgerRows(work.append(folder + _GROWING_REJECTS), source)
        self._waiting: list[dict[str, Any]] = []

    def add(self, sample: Prepared, common: Mapping[str, Any]) -> None:
        """Writes a sample: its record, then its picture, both under its row as the key. `common`: more columns."""
        if self._tar is None or self._tar.size >= self._limit:
            self._close_shard()
            self.shards.append(f"{self._first + len(self.shards):06d}.tar")
            self._tar = TarWriter(self._work.append(self._folder + self.shards[-1]))
        key = f"{sample.row:08d}"
        row = {**sample.columns, **common, "shard": (self._place / self.shards[-1]).as_posix()}
        row["record_offset"], row["record_size"] = self._tar.add(f"{key}.json", sample.record), len(sample.record)
        row["image_offset"] = row["image_size"] = None
        if sample.picture is not None:
            row["image_offset"] = self._tar.add(f"{key}.{sample.extension}", sample.picture)
            row["image_size"] = len(sample.picture)
        self._waiting.append(row)
        self.rows += 1
        if len(self._waiting) == _BATCH:
            self._flush()

    def reject(self, sample: str, block: str, reason: str, evidence: str) -> None:
        """Writes down why a sample is not used."""
        self._rejects.add(sample, block, reason, evidence)
        self.rows += 1

    def save(self) -> dict[str, Any]:
        """Hands all on to the files; returns the state that they are in."""
        self._flush()
        return {"open": self._tar is not None, "rows": self.rows, "shards": self.shards}

    def end(self) -> dict[str, Any]:
        """Closes all files; returns the state as `save` does."""
        self._close_shard()
        state = self.save()
        for name in (_GROWING_INDEX, _GROWING_REJECTS):
            self._work.close(self._folder + name)
        return state

    def write_tables(self, folder: Path) -> None:
        """Writes index and rejects as parquet."""
        write_row_groups(self._work.path(self._folder + _GROWING_INDEX), folder / INDEX, self._schema, _ROW_GROUP)
        write_grown_ledger(self._work.path(self._folder + _GROWING_REJECTS), folder / REJECTS)

    def _close_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._work.close(self._folder + self.shards[-1])
            self._tar = None

    def _flush(self) -> None:
        if any(row.keys() != set(self._schema.names) for row in self._waiting[:1]):
            raise DataError(
                f"the index of {self._place} lacks columns: {set(self._schema.names) ^ self._waiting[0].keys()}"
            )
        if self._waiting:
            self._index.add(pa.RecordBatch.from_pylist(self._waiting, schema=self._schema))
            self._waiting = []
        self._rejects.flush()
