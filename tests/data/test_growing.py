"""Tables that grow: cut anywhere between two batches they are tables, and they become the files written at once."""

import os
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusion.data.store.growing import GrowingTable, read_batches, write_row_groups
from fusion.data.store.ledger import SCHEMA, LedgerRows, ledger_frame, write_grown_ledger, write_ledger


def test_a_growing_table_cut_behind_a_batch_is_a_table(tmp_path: Path):
    schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
    ends = []
    with (tmp_path / "t").open("ab") as file:
        table = GrowingTable(file, schema)
        for number in range(3):
            ends.append(file.tell())
            table.add(pa.RecordBatch.from_pylist([{"a": number, "b": "x" * number}], schema=schema))
    for count in (2, 1, 0):
        os.truncate(tmp_path / "t", ends[count])
        assert [batch["a"][0].as_py() for batch in read_batches(tmp_path / "t")] == list(range(count))
    with (tmp_path / "t").open("ab") as file:
        GrowingTable(file, schema).add(pa.RecordBatch.from_pylist([{"a": 7, "b": None}], schema=schema))
    assert [batch.to_pylist() for batch in read_batches(tmp_path / "t")] == [[{"a": 7, "b": None}]]


@pytest.mark.parametrize("count", [0, 1, 20_000, 20_001, 130_000])
def test_a_grown_ledger_is_the_ledger_written_at_once(tmp_path: Path, count: int):
    rows = [(f"d/s/{number:08d}", "ingest", "reason", "\ud800\0" + "e" * (number % 50)) for number in range(count)]
    write_ledger(rows, "s", tmp_path / "once.parquet")
    with (tmp_path / "grown").open("ab") as file:
        ledger = LedgerRows(file, "s")
        for row in rows:
            ledger.add(*row)
        ledger.flush()
    write_grown_ledger(tmp_path / "grown", tmp_path / "grown.parquet")
    assert (tmp_path / "grown.parquet").read_bytes() == (tmp_path / "once.parquet").read_bytes()
    frame = pl.read_parquet(tmp_path / "grown.parquet")
    assert frame.schema == pl.Schema(SCHEMA) and frame.equals(ledger_frame(rows, "s"))


@pytest.mark.parametrize("sizes", [[], [3], [10, 10], [4, 13, 1, 1, 1, 22]])
def test_row_groups_do_not_follow_the_batches(tmp_path: Path, sizes: list[int]):
    schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
    rows = [{"a": number, "b": str(number) if number % 3 else None} for number in range(sum(sizes))]
    with (tmp_path / "grown").open("ab") as file:
        table, done = GrowingTable(file, schema), 0
        for size in sizes:
            table.add(pa.RecordBatch.from_pylist(rows[done : done + size], schema=schema))
            done += size
    write_row_groups(tmp_path / "grown", tmp_path / "grown.parquet", schema, 10)
    with pq.ParquetWriter(tmp_path / "once.parquet", schema, compression="zstd", store_schema=False) as writer:
        for start in range(0, max(len(rows), 1), 10):
            writer.write_table(pa.Table.from_pylist(rows[start : start + 10], schema=schema))
    assert (tmp_path / "grown.parquet").read_bytes() == (tmp_path / "once.parquet").read_bytes()
