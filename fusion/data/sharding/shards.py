"""Shards and index of one source: everything that needs the pixels, done once.

`data/shards/<dataset>/<source>/000000.tar ...` are immutable WebDataset tars; `data/index/<dataset>/<source>/` says
where each sample lies in them and what it measures. Source: design "From source to batch", item 2.

Killed sharding continues: its state lies in `scratch/shard/<dataset>/<source>/` until both outputs are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from fusion.data.errors import DataError
from fusion.data.ingest import SAMPLES
from fusion.data.ingest.lock import LOCK, locked_containers
from fusion.data.ingest.record import Reject
from fusion.data.sharding.prepare import Prepared, RawRow, Task
from fusion.data.sharding.workers import prepare_all
from fusion.data.store.folders import output_folders, parquet_file, read_json
from fusion.data.store.growing import GrowingTable, write_row_groups
from fusion.data.store.images import write_members
from fusion.data.store.ledger import LedgerRows, write_grown_ledger
from fusion.data.store.resume import SAVE_SECONDS, Resumable, code_sha256, link_file
from fusion.data.store.sample import SourceInfo
from fusion.data.store.tars import TarWriter
from fusion.hashing import file_sha256
from fusion.progress import Progress

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog, Source
    from fusion.settings import Settings

INDEX = "index.parquet"
REJECTS = "rejects.parquet"
_MEGABYTE = 1_000_000
_BATCH = 20_000
"""Rows of a row group of the index."""
_READ = 2000
_GROWING_INDEX, _GROWING_REJECTS, _MEMBERS = "index.arrow", "rejects.arrow", "members.npy"
_CODE = ("data/ingest", "data/sharding", "data/store", "hashing.py", "model/template.py")
_PACKAGES = ("numpy", "pdqhash", "pillow", "polars", "pyarrow", "tokenizers")


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


def shard_source(
    settings: Settings,
    catalog: Catalog,
    dataset: str,
    source: str,
    root: Path = Path("."),
    save_seconds: float = SAVE_SECONDS,
) -> Path:
    """Shards one ingested source; returns the folder of its index.

    Args:
        settings, catalog: what params.yaml and data/catalog/ say.
        dataset, source: which source.
        root: the project's folder.
        save_seconds: at most about so much work is done again after a kill.

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
    same = {
        "category": entry.category,
        "licence_declared": entry.licence.declared,
        "licence_verified": entry.licence.verified,
    }
    inputs = {
        "code": code_sha256(_CODE, {package: version(package) for package in _PACKAGES}),
        "lock": lock,
        "max_image_pixels": task.max_image_pixels,
        "same": same,
        "samples": file_sha256(raw / SAMPLES),
        "shard_size_mb": settings.data.shard_size_mb,
        "task": [dataset, source, task.file],
        "tokenizers": [[*item, _tokenizer_sha256(Path(item[1]))] for item in task.tokenizers],
    }
    shards = Path("data/shards") / dataset / source
    index = root / "data/index" / dataset / source
    schema = index_schema(sorted(tokenizers))
    with (
        output_folders(root / shards, index) as (shard_folder, index_folder),
        Resumable(root / "scratch/shard" / dataset / source, inputs, save_seconds) as work,
    ):
        members = work.make(
            _MEMBERS, lambda file: write_members(list(task.containers), file, f"{dataset}/{source}'s archives")
        )
        task = replace(task, members=members)
        writer = _Writer(work, task, shards, settings.data.shard_size_mb, same, schema)
        total = samples.metadata.num_rows
        rows = _rows(samples, writer.rows)
        with Progress(f"shard {dataset}/{source}", "samples", total, writer.rows) as progress:
            for result in prepare_all(task, rows, total - writer.rows, settings.data.workers):
                writer.add(result)
                progress.advance(1)
        writer.end()
        for name in writer.shards:
            link_file(work.path(name), shard_folder / name)
        write_row_groups(work.path(_GROWING_INDEX), index_folder / INDEX, schema, _BATCH)
        write_grown_ledger(work.path(_GROWING_REJECTS), index_folder / REJECTS)
    work.delete()
    return index


def _place(root: Path, name: str) -> Path | str:
    return root / name if (root / name).exists() else name


def _tokenizer_sha256(folder: Path) -> str | None:
    file = folder / "tokenizer.json"
    return file_sha256(file) if file.is_file() else None


def _annotation_file(entry: Source) -> str:
    return str(getattr(entry.origin, "file", "annotations.json"))


def _rows(samples: pq.ParquetFile, done: int) -> Iterator[RawRow]:
    """The rows behind the first `done`; row groups that are done altogether are not read."""
    groups, skip = list(range(samples.num_row_groups)), done
    while groups and (size := samples.metadata.row_group(groups[0]).num_rows) <= skip:
        groups, skip = groups[1:], skip - size
    columns = ["row", "image", "conversations"]
    for batch in samples.iter_batches(batch_size=_READ, row_groups=groups, columns=columns):
        rest = batch.slice(skip)
        skip = max(0, skip - batch.num_rows)
        for row in rest.to_pylist():
            yield row["row"], row["image"], row["conversations"]


class _Writer:
    """Shards, index and rejects side by side; nothing is kept in memory for longer than a batch."""

    def __init__(
        self, work: Resumable, task: Task, name: Path, megabytes: float, same: dict[str, Any], schema: pa.Schema
    ) -> None:
        """Continues where `work` was saved. `same` holds the columns that are equal for all samples."""
        self._work = work
        self._info = (task.dataset, task.source, task.file)
        self._name = name
        self._limit = megabytes * _MEGABYTE
        self._schema = schema
        self._same = {**same, "dataset": task.dataset, "source": task.source, "file": task.file}
        self.rows: int = work.state.get("rows", 0)
        """Rows of the source that are dealt with."""
        self.shards: list[str] = work.state.get("shards", [])
        self._tar = TarWriter(work.append(self.shards[-1])) if work.state.get("open") else None
        self._index = GrowingTable(work.append(_GROWING_INDEX), schema)
        self._rejects = LedgerRows(work.append(_GROWING_REJECTS), task.source)
        self._waiting: list[dict[str, Any]] = []

    def add(self, result: Prepared | tuple[int, Reject]) -> None:
        """Writes one sample, or the reason against it."""
        if isinstance(result, Prepared):
            self._add_sample(result)
        else:
            sample = SourceInfo(*self._info, result[0]).sample_id
            self._rejects.add(sample, "shard", result[1].reason, result[1].evidence)
        self.rows += 1
        if self._work.due():
            self._flush()
            self._work.save(self._state())

    def end(self) -> None:
        """Closes the last shard."""
        self._close_shard()
        self._flush()
        self._work.end(self._state())

    def _state(self) -> dict[str, Any]:
        return {"open": self._tar is not None, "rows": self.rows, "shards": self.shards}

    def _add_sample(self, sample: Prepared) -> None:
        """Its record, then its picture, both under its row as the key."""
        if self._tar is None or self._tar.size >= self._limit:
            self._close_shard()
            self.shards.append(f"{len(self.shards):06d}.tar")
            self._tar = TarWriter(self._work.append(self.shards[-1]))
        key = f"{sample.row:08d}"
        row = {**sample.columns, **self._same, "shard": (self._name / self.shards[-1]).as_posix()}
        row["record_offset"], row["record_size"] = self._tar.add(f"{key}.json", sample.record), len(sample.record)
        row["image_offset"] = row["image_size"] = None
        if sample.picture is not None:
            row["image_offset"] = self._tar.add(f"{key}.{sample.extension}", sample.picture)
            row["image_size"] = len(sample.picture)
        self._waiting.append(row)
        if len(self._waiting) == _READ:
            self._flush()

    def _close_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._work.close(self.shards[-1])
            self._tar = None

    def _flush(self) -> None:
        if any(row.keys() != set(self._schema.names) for row in self._waiting[:1]):
            raise DataError(
                f"the index of {self._name} lacks columns: {set(self._schema.names) ^ self._waiting[0].keys()}"
            )
        if self._waiting:
            self._index.add(pa.RecordBatch.from_pylist(self._waiting, schema=self._schema))
            self._waiting = []
        self._rejects.flush()
