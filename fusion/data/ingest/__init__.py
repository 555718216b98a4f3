"""Ingest: one source, from wherever it is published, to `data/raw/<dataset>/<source>/`.

samples.parquet holds the rows that can be used so far, rejects.parquet the others with their reasons; the pictures stay
where they are, listed in images.lock.json. Source: design "From source to batch", item 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from fusion.data.errors import IngestError
from fusion.data.ingest.embedded import write_published_layout
from fusion.data.ingest.json_stream import read_records
from fusion.data.ingest.lock import LOCK, lock_images
from fusion.data.ingest.origin import EmbeddedOrigin, Layout, PublishedOrigin
from fusion.data.ingest.record import Reject, Row, read_row
from fusion.data.ingest.sampling import chosen_rows, needs_count
from fusion.data.store.folders import output_folder
from fusion.data.store.ledger import write_ledger
from fusion.data.store.sample import SourceInfo
from fusion.files import write_json

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog
    from fusion.settings import Settings

_BATCH = 20_000
_BATCH_CHARACTERS = 256 << 20
"""Of texts in a batch of rows; only a file of very long ones gets there before `_BATCH`."""
SAMPLES = "samples.parquet"
REJECTS = "rejects.parquet"
_MESSAGE = pa.struct([("from", pa.string()), ("value", pa.string())])
_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("image", pa.string()),
        pa.field("conversations", pa.list_(_MESSAGE), nullable=False),
    ],
    metadata=None,
)


def ingest_source(settings: Settings, catalog: Catalog, dataset: str, source: str, root: Path = Path(".")) -> Path:
    """Ingests one source; returns its folder.

    Raises:
        IngestError: the source is not there, its annotation file is not valid JSON, or nothing is left of it.
        CatalogError: the catalog has no such source.
    """
    entry = catalog.source(dataset, source)
    target = root / "data/raw" / dataset / source
    with output_folder(target) as folder:
        if isinstance(entry.origin, EmbeddedOrigin):
            layout = write_published_layout(entry.origin, folder, root)
        elif isinstance(entry.origin, PublishedOrigin):
            layout = entry.origin.layout(settings.data.roots.get(dataset))
        else:
            raise IngestError(f"{dataset}/{source}: an origin of kind `{entry.origin.kind}` cannot be ingested")
        name = f"{dataset}/{source}"
        chosen = chosen_rows(entry.sampling, _count(layout, entry.sampling), settings.run.seed, name)
        _write_rows(layout, folder, chosen, SourceInfo(dataset, source, os.path.basename(layout.annotations), 0))
        write_json(lock_images(layout, lambda: _used_images(folder)), folder / LOCK)
    return target


def _count(layout: Layout, sampling: str) -> int | None:
    path = layout.folder / layout.annotations
    return sum(1 for _ in read_records(path)) if needs_count(sampling) else None


def _used_images(folder: Path) -> Iterator[str]:
    """The pictures of all rows, in their order; one that several rows share comes several times."""
    for batch in pq.ParquetFile(folder / SAMPLES).iter_batches(batch_size=_BATCH, columns=["image"]):
        yield from (name for name in batch.column(0).to_pylist() if name is not None)


def _write_rows(layout: Layout, folder: Path, chosen: Any, info: SourceInfo) -> None:
    """Writes both tables, samples and rejects, batch by batch."""
    rows: list[tuple[int, Row]] = []
    rejects: list[tuple[str, str, str, str]] = []
    total = size = 0
    with pq.ParquetWriter(folder / SAMPLES, _SCHEMA, compression="zstd", store_schema=False) as writer:
        for number, record in enumerate(read_records(layout.folder / layout.annotations)):
            if isinstance(chosen, int) and number >= chosen:
                break
            if chosen is not None and not isinstance(chosen, int) and not chosen[number]:
                continue
            total += 1
            row = read_row(record)
            if isinstance(row, Reject):
                where = SourceInfo(info.dataset, info.source, info.file, number)
                rejects.append((where.sample_id, "ingest", row.reason, row.evidence))
                continue
            rows.append((number, row))
            size += sum(len(message["value"]) for message in row.conversations)
            if len(rows) == _BATCH or size > _BATCH_CHARACTERS:
                writer.write_table(_table(rows))
                rows, size = [], 0
        if rows or total == len(rejects):
            writer.write_table(_table(rows))
    if not total:
        raise IngestError(f"{layout.folder / layout.annotations} holds no sample")
    write_ledger(rejects, info.source, folder / REJECTS)


def _table(rows: list[tuple[int, Row]]) -> pa.Table:
    columns = {
        "row": [number for number, _ in rows],
        "key": [row.key for _, row in rows],
        "image": [row.image for _, row in rows],
        "conversations": [row.conversations for _, row in rows],
    }
    return pa.table(columns, schema=_SCHEMA)
