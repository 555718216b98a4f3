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
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from fusion.data.errors import DataError
from fusion.data.ingest import SAMPLES
from fusion.data.ingest.lock import LOCK, locked_containers
from fusion.data.sharding.prepare import Prepared, RawRow, Task
from fusion.data.sharding.workers import prepare_all
from fusion.data.sharding.writer import ShardWriter, index_schema
from fusion.data.store.folders import output_folders, parquet_file, read_json
from fusion.data.store.images import write_members
from fusion.data.store.resume import Resumable, code_sha256, link_file
from fusion.data.store.sample import SourceInfo
from fusion.hashing import file_sha256
from fusion.progress import Progress

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog, Source
    from fusion.settings import Settings

_READ = 2000
_MEMBERS = "members.npy"
_CODE = ("data/ingest", "data/sharding", "data/store", "hashing.py", "model/template.py")
_PACKAGES = ("numpy", "pdqhash", "pillow", "polars", "pyarrow", "tokenizers")


def shard_source(
    settings: Settings,
    catalog: Catalog,
    dataset: str,
    source: str,
    root: Path = Path("."),
) -> Path:
    """Shards one ingested source; returns the folder of its index.

    Args:
        settings, catalog: what params.yaml and data/catalog/ say.
        dataset, source: which source.
        root: the project's folder.

    Raises:
        DataError: of a tokenizer of the Hub no commit is named, the source was not ingested, its archives have changed
            since, or a worker died.
    """
    entry = catalog.source(dataset, source)
    whole = catalog.dataset(dataset)
    tokenizers = whole.tokenizers
    # A data set that combines others has its tokenizers from them.
    stated = whole.members.get(source, dataset).partition("/")[0]
    if unpinned := catalog.unpinned_tokenizers(stated, tokenizers, root):
        raise DataError("\n".join(unpinned))
    raw = root / "data/raw" / dataset / source
    made_by = f"fusion ingest {dataset} {source}"
    lock = read_json(raw / LOCK, made_by)
    samples = parquet_file(raw / SAMPLES, made_by)
    task = Task(
        dataset=dataset,
        source=source,
        file=_annotation_file(entry),
        containers=tuple(
            locked_containers(lock, raw, entry.origin, whole.folder(settings.data.roots, dataset, source))
        ),
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
    # The lock first: a second start must not touch what the first one is writing.
    with Resumable(root / "scratch/shard" / dataset / source, inputs, settings.data.save_seconds) as work:
        with output_folders(root / shards, index) as (shard_folder, index_folder):
            members = work.make(
                _MEMBERS, lambda file: write_members(list(task.containers), file, f"{dataset}/{source}'s archives")
            )
            task = replace(task, members=members)
            writer = ShardWriter(work, shards, source, settings.data.shard_size_mb, schema, work.state)
            info = (dataset, source, task.file)
            common = {**same, "dataset": dataset, "source": source, "file": task.file}
            total, done = samples.metadata.num_rows, writer.rows
            with Progress(f"shard {dataset}/{source}", "samples", total, done) as progress:
                for result in prepare_all(task, _rows(samples, done), total - done, settings.data.workers):
                    if isinstance(result, Prepared):
                        writer.add(result, common)
                    else:
                        sample = SourceInfo(*info, result[0]).sample_id
                        writer.reject(sample, "shard", result[1].reason, result[1].evidence)
                    if work.due():
                        work.save(writer.save())
                    progress.advance(1)
            work.end(writer.end())
            for name in writer.shards:
                link_file(work.path(name), shard_folder / name)
            writer.write_tables(index_folder)
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
