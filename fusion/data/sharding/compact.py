"""`fusion shard --compact SET`: shards without the samples that curation has rejected, when a person asks for it.

Curation copies nothing, so the shards of a data set keep what its manifest leaves out. Here the sources that lose
samples get new shards, numbered on behind the old ones, and index, rejects and manifest follow. What curation rejected
becomes rejects of the index: kept + rejected = ingested still. The order of training is a function of the manifest's
hash, so it is another one afterwards.

Everything is made in scratch/ first. Then the new shards are put beside the old ones, then the tables are replaced, the
manifest last, and only then are the old shards removed: whenever it is killed, every sample of the manifest is there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fusion.data.errors import DataError
from fusion.data.sharding.prepare import Prepared
from fusion.data.sharding.writer import INDEX, REJECTS, ShardWriter, index_schema
from fusion.data.store.folders import full_disk_named, parquet_file, write_parquet
from fusion.data.store.growing import GrowingTable, write_frame
from fusion.data.store.resume import Resumable, code_sha256, link_file
from fusion.hashing import file_sha256
from fusion.progress import Progress

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog
    from fusion.settings import Settings

MANIFEST = "manifest.parquet"
_LEDGER = "ledger.parquet"
_GROWING = "manifest.arrow"
_BATCH = 2000
_MANIFEST_BATCH = 100_000
_HEADER = 512
"""Bytes of the header in front of every member of a shard; its name stands first in it."""
_NAME = 100
_MOVED = ("shard", "record_offset", "image_offset")
_CODE = ("data/sharding", "data/store", "hashing.py")


@dataclass(frozen=True)
class _Source:
    """One source that loses samples: `kept` rows of its annotations, ascending, and `rejected` ledger rows."""

    name: str
    kept: npt.NDArray[np.int64]
    rejected: pl.DataFrame


def compact_dataset(settings: Settings, catalog: Catalog, dataset: str, root: Path = Path(".")) -> list[str]:
    """Rewrites the shards of a curated data set without rejected samples.

    Returns:
        The sources that were rewritten; none when nothing was rejected since the last time.

    Raises:
        DataError: the data set was not curated, or its manifest belongs to other shards than those that are there.
    """
    entry = catalog.dataset(dataset)
    manifest = root / "data/manifests" / dataset / MANIFEST
    parquet_file(manifest, f"fusion curate {dataset}")
    inputs = {
        "code": code_sha256(_CODE, {name: version(name) for name in ("polars", "pyarrow")}),
        "manifest": file_sha256(manifest),
        "shard_size_mb": settings.data.shard_size_mb,
    }
    with (
        full_disk_named(root / "data/shards" / dataset, root / "scratch/compact"),
        Resumable(root / "scratch/compact" / dataset, inputs, settings.data.save_seconds) as work,
    ):
        if not work.state.get("ready"):
            schema = index_schema(sorted(entry.tokenizers))
            for source in _losing(root, dataset, list(entry.sources)):
                if source.name not in work.state.get("sources", []):
                    _rewrite(root, dataset, source, settings, schema, work)
            if work.state:
                _rewrite_manifest(manifest, work.state["sources"], work)
                work.save({**work.state, "ready": True})
        names: list[str] = work.state.get("sources", [])
        if names:
            _switch(root, dataset, names, work)
        for name in entry.sources:
            _remove_unused(root, dataset, name)
    work.delete()
    return names


def _losing(root: Path, dataset: str, sources: list[str]) -> Iterator[_Source]:
    folder = root / "data/manifests" / dataset
    for name in sources:
        index = parquet_file(root / "data/index" / dataset / name / INDEX, f"fusion shard {dataset} {name}")
        mine = pl.scan_parquet(folder / MANIFEST).filter(pl.col("source") == name)
        kept = mine.select("row").collect()["row"].sort().to_numpy()
        if len(kept) == index.metadata.num_rows:
            continue
        ledger = pl.scan_parquet(folder / _LEDGER).filter(pl.col("source") == name)
        rejected = ledger.filter(~pl.col("block").is_in(["ingest", "shard"])).collect()
        before = parquet_file(root / "data/index" / dataset / name / REJECTS, f"fusion shard {dataset} {name}")
        # What an earlier compaction has moved there is in the ledger as well.
        earlier = pl.from_arrow(before.read(["sample_id"]))
        assert isinstance(earlier, pl.DataFrame)
        rejected = rejected.join(earlier, on="sample_id", how="anti", maintain_order="left")
        if len(kept) + len(rejected) != index.metadata.num_rows:
            raise DataError(
                f"{dataset}/{name}: {len(kept)} kept + {len(rejected)} rejected by curation are not the "
                f"{index.metadata.num_rows} in the index: run `fusion curate {dataset}` first"
            )
        yield _Source(name, kept, rejected)


def _rewrite(root: Path, dataset: str, source: _Source, settings: Settings, schema: pa.Schema, work: Resumable) -> None:
    """Makes the new shards and tables of a source in `work`."""
    index = root / "data/index" / dataset / source.name
    place, folder = Path("data/shards") / dataset / source.name, f"{source.name}/"
    done = work.state.get("sources", [])
    last = pl.scan_parquet(index / INDEX).select(pl.col("shard").max()).collect().item()
    first = int(Path(last).stem) + 1
    state = work.state.get("writer", {})
    writer = ShardWriter(work, place, source.name, settings.data.shard_size_mb, schema, state, first, folder)
    label = f"compact {dataset}/{source.name}"
    with Progress(label, "samples", len(source.kept), writer.rows) as progress, _Shards(root) as shards:
        for row in _kept_rows(index / INDEX, source.kept, writer.rows):
            writer.add(_taken(row, shards), {})
            if work.due():
                work.save({"sources": done, "writer": writer.save()})
            progress.advance(1)
    writer.end()
    writer.write_tables(work.path(folder))
    before = pl.read_parquet(index / REJECTS)
    write_parquet(pl.concat([before, source.rejected]).sort("sample_id"), work.path(folder + REJECTS))
    for table in (INDEX, REJECTS):
        work.adopt(folder + table)
    work.save({"sources": [*done, source.name]})


def _kept_rows(index: Path, kept: npt.NDArray[np.int64], done: int) -> Iterator[dict[str, Any]]:
    """The index's rows of the kept samples behind the first `done`."""
    skip = done
    for batch in pq.ParquetFile(index).iter_batches(batch_size=_BATCH):
        rows = batch.column("row").to_numpy()
        first, last = np.searchsorted(kept, [rows[0], rows[-1] + 1]) if len(rows) else (0, 0)
        chosen = np.minimum(np.searchsorted(rows, kept[first:last]), max(len(rows) - 1, 0))
        if not np.array_equal(rows[chosen], kept[first:last]):
            raise DataError(f"the manifest keeps samples that {index} does not have: run `fusion curate` first")
        yield from batch.take(pa.array(chosen[skip:])).to_pylist()
        skip = max(0, skip - len(chosen))


class _Shards:
    """The old shards, one open at a time: the rows come in their order."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._name = ""
        self._descriptor: int | None = None

    def read(self, shard: str, offset: int, size: int) -> bytes:
        if shard != self._name:
            self.close()
            try:
                self._descriptor = os.open(self._root / shard, os.O_RDONLY)
            except FileNotFoundError:
                raise DataError(f"shard {shard} is missing: restore it with `dvc checkout` or `dvc repro`") from None
            self._name = shard
        assert self._descriptor is not None
        return os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _taken(row: dict[str, Any], shards: _Shards) -> Prepared:
    """A sample as it lies in its shard, checked against the hashes of the index."""
    record = shards.read(row["shard"], row["record_offset"], row["record_size"])
    picture = extension = None
    if row["image_offset"] is not None:
        name = shards.read(row["shard"], row["image_offset"] - _HEADER, _NAME).partition(b"\0")[0].decode()
        picture = shards.read(row["shard"], row["image_offset"], row["image_size"])
        extension = name.partition(".")[2]
    found = [hashlib.sha256(record).hexdigest(), hashlib.sha256(picture).hexdigest() if picture is not None else None]
    if found != [row["sha256"], row["image_sha256"]]:
        raise DataError(
            f"{row['sample_id']} is not what the index says in {row['shard']}: restore it with `dvc checkout`, or "
            "shard the source again"
        )
    return Prepared(row["row"], record, picture, extension, row)


def _rewrite_manifest(manifest: Path, names: list[str], work: Resumable) -> None:
    """Makes the manifest with the places that the new indexes say; all else stays, the order of the rows too."""
    moved = {}
    for name in names:
        moved_to = pl.scan_parquet(work.path(f"{name}/{INDEX}")).select("row", *_MOVED)
        moved[name] = moved_to.with_columns(pl.col("shard").cast(pl.Categorical)).collect()
    schema = pl.read_parquet_schema(manifest)
    work.path(_GROWING).unlink(missing_ok=True)
    with work.path(_GROWING).open("ab") as file:
        grown = None
        for batch in pq.ParquetFile(manifest).iter_batches(batch_size=_MANIFEST_BATCH):
            parts = pl.DataFrame(batch, schema=schema).with_row_index("at").partition_by("source", maintain_order=True)
            frame = pl.concat([_moved(part, moved.get(part["source"][0])) for part in parts]).sort("at")
            arrow = frame.select(list(schema)).to_arrow()
            grown = grown or GrowingTable(file, arrow.schema)
            for part in arrow.combine_chunks().to_batches():
                grown.add(part)
    write_frame(work.path(_GROWING), work.path(MANIFEST), dict(schema))
    work.adopt(MANIFEST)


def _moved(rows: pl.DataFrame, places: pl.DataFrame | None) -> pl.DataFrame:
    """Manifest rows of one source with the places of its new index, whose rows ascend."""
    if places is None:
        return rows
    found = places[np.searchsorted(places["row"].to_numpy(), rows["row"].to_numpy())]
    return rows.with_columns(found["shard"].cast(pl.String), *(found[name] for name in _MOVED[1:]))


def _switch(root: Path, dataset: str, names: list[str], work: Resumable) -> None:
    for name in names:
        for shard in sorted(work.path(name).glob("*.tar")):
            _put(shard, root / "data/shards" / dataset / name / shard.name)
    for name in names:
        for table in (INDEX, REJECTS):
            _put(work.path(f"{name}/{table}"), root / "data/index" / dataset / name / table)
    _put(work.path(MANIFEST), root / "data/manifests" / dataset / MANIFEST)


def _put(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    link_file(source, partial)
    os.replace(partial, target)
    # Two names of one file replace one another by doing nothing.
    partial.unlink(missing_ok=True)


def _remove_unused(root: Path, dataset: str, source: str) -> None:
    index = pl.scan_parquet(root / "data/index" / dataset / source / INDEX)
    used = set(index.select(pl.col("shard").unique()).collect()["shard"])
    for path in sorted((root / "data/shards" / dataset / source).glob("*.tar")):
        if path.relative_to(root).as_posix() not in used:
            path.unlink()


def tell_compacted(settings: Settings, catalog: Catalog, dataset: str) -> str:
    """Compacts a data set, and says what was rewritten and how to record it."""
    names = compact_dataset(settings, catalog, dataset)
    if not names:
        return f"nothing to do: every sample in the shards of {dataset} is in its manifest"
    stages = [*(f"shard@{dataset}-{name}" for name in names), f"curate@{dataset}"]
    return (
        f"rewritten: {', '.join(names)}. To record it, and for all that follows from the new manifest:\n"
        f"  dvc commit -f {' '.join(stages)} && dvc repro"
    )
