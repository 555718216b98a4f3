"""Tables that grow on disk batch by batch, and become parquet files at the end; memory holds one batch.

A growing table is an Arrow stream without its end mark, so that a file cut behind any batch is a table again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fusion.data.store.folders import write_parquet_parts


class GrowingTable:
    """Appends batches of `schema` to `file`, which may hold some already."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._file = file
        self._schema = schema
        if not file.tell():
            file.write(schema.serialize())

    def add(self, batch: pa.RecordBatch) -> None:
        """Appends one batch."""
        self._file.write(batch.serialize())


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a growing table, as they were added."""
    with pa.OSFile(str(path)) as file:
        yield from pa.ipc.open_stream(file)


def write_row_groups(path: Path, target: Path, schema: pa.Schema, rows: int | None = None) -> None:
    """Writes a growing table as parquet: a row group of every batch, or of `rows` rows each."""
    with pq.ParquetWriter(target, schema, compression="zstd", store_schema=False) as writer:
        written = False
        for table in _tables(path) if rows is None else _regrouped(path, schema, rows):
            writer.write_table(table)
            written = True
        if not written:
            writer.write_table(schema.empty_table())


def write_frame(path: Path, target: Path, schema: dict[str, pl.DataType]) -> None:
    """Writes a growing table as `write_parquet` writes a frame of `schema`; memory holds a few batches of it."""
    frames = (pl.DataFrame(batch, schema=schema) for batch in read_batches(path))
    write_parquet_parts(frames, pl.Schema(schema), target)


def _tables(path: Path) -> Iterator[pa.Table]:
    for batch in read_batches(path):
        yield pa.Table.from_batches([batch])


def _regrouped(path: Path, schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in read_batches(path):
        waiting.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.Table.from_batches(waiting, schema)
            yield table.slice(0, rows).combine_chunks()
            waiting = table.slice(rows).to_batches()
            count -= rows
    if count:
        yield pa.Table.from_batches(waiting, schema).combine_chunks()
