"""Shards and index of one source: everything that needs the pixels, done once.

`data/shards/<dataset>/<source>/000000.tar ...` are immutable WebDataset tars; `data/index/<dataset>/<source>/` says
where each sample lies in them and what it measures. Source: design "From source to batch", item 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from fusion.data.errors import DataError
from fusion.data.ingest import SAMPLES
from fusion.data.ingest.lock import LOCK, locked_containers
from fusion.data.sharding.prepare import Prepared, RawRow, Task
from fusion.data.sharding.workers import prepare_all
from fusion.data.store.folders import output_folders, parquet_file, read_json
from fusion.data.store.ledger import write_ledger
from fusion.data.store.sample import SourceInfo
from fusion.data.store.tars import TarWriter

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog, Source
    from fusion.settings import Settings

INDEX = "index.parquet"
REJECTS = "rejects.parquet"
_MEGABYTE = 1_000_000
_BATCH = 20_000


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


def shard_source(settings: Settings, catalog: Catalog, dataset: str, source: str, root: Path = Path(".")) -> Path:
    """Shards one ingested source; returns the folder of its index.

    Raises:
        DataError: the source was not ingested, its archives have changed since, or a worker died.
    """
    entry = catalog.source(dataset, source)
    raw = root / "data/raw" / dataset / source
    made_by = f"fusion ingest {dataset} {source}"
    lock = read_json(raw / LOCK, made_by)
    samples = parquet_file(raw / SAMPLES, made_by)
    tokenizers = catalog.dataset(dataset).tokenizers
    task = Task(
        dataset=dataset,
        source=source,
        file=_annotation_file(entry),
        containers=tuple(locked_containers(lock, raw, entry.origin, settings.data.roots.get(dataset))),
        max_image_pixels=settings.data.max_image_pixels,
        tokenizers=tuple(
            (key, str(_place(root, item.name)), item.revision, item.template)
            for key, item in sorted(tokenizers.items())
        ),
    )
    results = prepare_all(task, _rows(samples), samples.metadata.num_rows, settings.data.workers)
    shards = Path("data/shards") / dataset / source
    index = root / "data/index" / dataset / source
    rejects: list[tuple[str, str, str, str]] = []
    with output_folders(root / shards, index) as (shard_folder, index_folder):
        writer = _Writer(
            shard_folder, index_folder, shards, settings.data.shard_size_mb, entry, index_schema(sorted(tokenizers))
        )
        with writer:
            for result in results:
                if isinstance(result, Prepared):
                    writer.add(result, task)
                else:
                    sample = SourceInfo(dataset, source, task.file, result[0]).sample_id
                    rejects.append((sample, "shard", result[1].reason, result[1].evidence))
        write_ledger(rejects, source, index_folder / REJECTS)
    return index


def _place(root: Path, name: str) -> Path | str:
    return root / name if (root / name).exists() else name


def _annotation_file(entry: Source) -> str:
    return str(getattr(entry.origin, "file", "annotations.json"))


def _rows(samples: pq.ParquetFile) -> Iterator[RawRow]:
    for batch in samples.iter_batches(batch_size=2000, columns=["row", "image", "conversations"]):
        for row in batch.to_pylist():
            yield row["row"], row["image"], row["conversations"]


class _Writer:
    """Shards and index side by side; nothing is kept in memory for longer than a batch."""

    def __init__(
        self, shards: Path, index: Path, name: Path, megabytes: float, entry: Source, schema: pa.Schema
    ) -> None:
        self._folder = shards
        self._name = name
        self._limit = megabytes * _MEGABYTE
        self._schema = schema
        self._same = {
            "category": entry.category,
            "licence_declared": entry.licence.declared,
            "licence_verified": entry.licence.verified,
        }
        self._index = pq.ParquetWriter(index / INDEX, schema, compression="zstd", store_schema=False)
        self._tar: TarWriter | None = None
        self._shards = 0
        self._rows: list[dict[str, Any]] = []
        self._written = False

    def add(self, sample: Prepared, task: Task) -> None:
        """Writes one sample: its record, then its picture, both under its row as the key."""
        if self._tar is None or self._tar.size >= self._limit:
            if self._tar is not None:
                self._tar.close()
            self._tar = TarWriter(self._folder / f"{self._shards:06d}.tar")
            self._shards += 1
        key = f"{sample.row:08d}"
        row = {**sample.columns, **self._same, "dataset": task.dataset, "source": task.source, "file": task.file}
        row["shard"] = (self._name / f"{self._shards - 1:06d}.tar").as_posix()
        row["record_offset"], row["record_size"] = self._tar.add(f"{key}.json", sample.record), len(sample.record)
        row["image_offset"] = row["image_size"] = None
        if sample.picture is not None:
            row["image_offset"] = self._tar.add(f"{key}.{sample.extension}", sample.picture)
            row["image_size"] = len(sample.picture)
        self._rows.append(row)
        if len(self._rows) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        if any(row.keys() != set(self._schema.names) for row in self._rows[:1]):
            raise DataError(
                f"the index of {self._name} lacks columns: {set(self._schema.names) ^ self._rows[0].keys()}"
            )
        self._index.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
        self._written = True

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            if self._rows or not self._written:
                self._flush()
            if self._tar is not None:
                self._tar.close()
        self._index.close()
