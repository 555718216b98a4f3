"""From annotations to rows: checked, in batches, saved as they grow, so that a killed ingest goes on where it was."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fusion.data.errors import IngestError
from fusion.data.ingest.json_stream import Position, RecordStream
from fusion.data.ingest.origin import Layout
from fusion.data.ingest.record import Reject, Row, read_row
from fusion.data.store.growing import GrowingTable
from fusion.data.store.ledger import LedgerRows
from fusion.data.store.resume import Resumable
from fusion.data.store.sample import SourceInfo
from fusion.progress import Progress

ROWS, REJECTS = "samples.arrow", "rejects.arrow"
"""The growing tables in the state's folder."""
_BATCH = 20_000
_BATCH_CHARACTERS = 64 << 20
"""A batch is a row group of samples.parquet: so many rows, or fewer long ones."""
_TOLD_EVERY = 1000
_MESSAGE = pa.struct([("from", pa.string()), ("value", pa.string())])
SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("image", pa.string()),
        pa.field("conversations", pa.list_(_MESSAGE), nullable=False),
    ],
    metadata=None,
)


def grow_rows(
    layout: Layout,
    chosen: npt.NDArray[np.bool_] | int | None,
    dataset: str,
    source: str,
    work: Resumable,
    nowhere: str | None = None,
) -> None:
    """Writes the chosen rows of the annotations to the growing tables `ROWS` and `REJECTS` of `work`.

    Raises:
        IngestError: the file is not valid JSON, none of its rows is chosen, or one names a picture while no picture can
            be anywhere: `nowhere` says why.
    """
    path = layout.folder / layout.annotations
    if work.state.get("done"):
        return
    start = work.state.get("position")
    total = work.state.get("total", 0)
    batch = _Batch()
    samples = GrowingTable(work.append(ROWS), SCHEMA)
    rejects = LedgerRows(work.append(REJECTS), source)
    info = (dataset, source, os.path.basename(layout.annotations))
    with (
        RecordStream(path, Position(**start) if start else None) as stream,
        Progress(f"ingest {dataset}/{source}", "rows", path.stat().st_size, start["byte"] if start else 0) as progress,
    ):
        last = chosen if isinstance(chosen, int) else None
        for record in stream if last is None or stream.rows < last else ():
            number = stream.rows - 1
            if chosen is None or last is not None or chosen[number]:  # type: ignore[index]
                total += 1
                row = read_row(record)
                if isinstance(row, Reject):
                    rejects.add(SourceInfo(*info, number).sample_id, "ingest", row.reason, row.evidence)
                elif nowhere and row.image is not None:
                    raise IngestError(f"{dataset}/{source}: row {number} names the picture {row.image}, but {nowhere}")
                else:
                    batch.add(number, row)
                    if batch.full:
                        samples.add(batch.take())
            if not stream.rows % _TOLD_EVERY:
                progress.advance(_TOLD_EVERY, stream.bytes_read)
            # Only between two batches: when the state is saved must not decide where one ends.
            if batch.empty and work.due():
                rejects.flush()
                work.save({"position": asdict(stream.position()), "total": total})
            if stream.rows == last:
                break
        if not batch.empty:
            samples.add(batch.take())
        rejects.flush()
        if not total:
            raise IngestError(f"{path} holds no sample")
        work.end({"done": True})


class _Batch:
    """Rows as columns."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._numbers: list[int] = []
        self._keys: list[str | None] = []
        self._images: list[str | None] = []
        self._roles: list[str] = []
        self._values: list[str] = []
        self._ends = [0]
        self._characters = 0

    def add(self, number: int, row: Row) -> None:
        self._numbers.append(number)
        self._keys.append(row.key)
        self._images.append(row.image)
        for message in row.conversations:
            self._roles.append(message["from"])
            self._values.append(message["value"])
            self._characters += len(message["value"])
        self._ends.append(len(self._roles))

    @property
    def full(self) -> bool:
        return len(self._numbers) >= _BATCH or self._characters >= _BATCH_CHARACTERS

    @property
    def empty(self) -> bool:
        return not self._numbers

    def take(self) -> pa.RecordBatch:
        texts = [pa.array(column, pa.string()) for column in (self._roles, self._values)]
        messages = pa.StructArray.from_arrays(texts, fields=list(_MESSAGE))
        columns: list[Any] = [
            pa.array(self._numbers, pa.int64()),
            pa.array(self._keys, pa.string()),
            pa.array(self._images, pa.string()),
            pa.ListArray.from_arrays(pa.array(self._ends, pa.int32()), messages),
        ]
        self._clear()
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
