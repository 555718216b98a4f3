"""What curation writes: manifest and ledger, source by source, and the numbers of the summary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from fusion.data.curate.samples import AT, Samples
from fusion.data.errors import DataError
from fusion.data.ingest import SAMPLES
from fusion.data.store.folders import parquet_file, read_parquet, write_parquet_parts
from fusion.data.store.ledger import EVIDENCE_CHARS
from fusion.data.store.ledger import SCHEMA as LEDGER

if TYPE_CHECKING:
    from fusion.data.catalog import Dataset

MANIFEST = "manifest.parquet"
_NOT_IN_MANIFEST = "structure"


class Ledger:
    """What ingest, sharding and the blocks have rejected; texts of evidence are all that it keeps in memory."""

    def __init__(self, samples: Samples) -> None:
        """Raises `DataError` when a source was not ingested or not sharded, or was not sharded whole."""
        self._samples = samples
        self._dropped: list[pl.DataFrame] = []
        self.ingested = {
            source: _slice_length(samples.place(source)) + sum(len(table) for table in self._earlier(source))
            for source in samples.profiles
        }
        """Samples of each source before anything was rejected."""
        for source in samples.profiles:
            self._check_sharded(source)

    def add(self, block: str, rejects: pl.DataFrame) -> None:
        """Takes down what a block rejects."""
        clean = pl.col("evidence").str.slice(0, EVIDENCE_CHARS).str.replace_all("\x00", "\\0", literal=True)
        self._dropped.append(rejects.select(AT, "reason", clean, block=pl.lit(block)).sort(AT))

    def write(self, path: Path) -> None:
        """Writes the table, sorted by the samples' ids."""
        # A slash comes after some characters of names, so that sources are not in the order of their names alone.
        sources = sorted(self._samples.profiles, key=lambda source: f"{source}/")
        parts = (self._of(source) for source in sources)
        write_parquet_parts(parts, pl.Schema(LEDGER), path)

    def _of(self, source: str) -> pl.DataFrame:
        place = self._samples.place(source)
        tables = self._earlier(source)
        for dropped in self._dropped:
            start, end = np.searchsorted(dropped[AT].to_numpy(), [place.start, place.stop]).tolist()
            mine = dropped.slice(start, end - start)
            ids = self._samples.ids(mine[AT].to_numpy().astype(np.int64))
            told = mine.with_columns(sample_id=ids, source=pl.lit(source, pl.String))
            tables.append(told.select(list(LEDGER)))
        return pl.concat(tables).sort("sample_id")

    def _check_sharded(self, source: str) -> None:
        """What sharding kept and rejected is what ingest left, or samples would be lost that no ledger names."""
        name = f"{self._samples.dataset}/{source}"
        raw = parquet_file(
            self._samples.root / "data/raw" / name / SAMPLES, f"fusion ingest {self._samples.dataset} {source}"
        )
        left, index = raw.metadata.num_rows, _slice_length(self._samples.place(source))
        rejected = len(self._earlier(source)[1])
        if index + rejected != left:
            raise DataError(
                f"{name}: {index} samples in the index + {rejected} rejected by sharding are not the {left} that "
                f"ingest left: run `fusion shard {self._samples.dataset} {source}` again"
            )

    def _earlier(self, source: str) -> list[pl.DataFrame]:
        root, dataset = self._samples.root, self._samples.dataset
        return [
            read_parquet(root / "data/raw" / dataset / source / "rejects.parquet", f"fusion ingest {dataset} {source}"),
            read_parquet(
                root / "data/index" / dataset / source / "rejects.parquet", f"fusion shard {dataset} {source}"
            ),
        ]


def _slice_length(place: slice) -> int:
    return int(place.stop - place.start)


def write_manifest(samples: Samples, path: Path) -> None:
    """Writes the index's columns of the samples that are kept, and their draws."""
    parts = samples.parts()
    source = next(iter(samples.profiles))
    index = samples.root / "data/index" / samples.dataset / source / "index.parquet"
    made_by = f"fusion shard {samples.dataset} {source}"
    with_draws = read_parquet(index, made_by).clear().drop(_NOT_IN_MANIFEST).with_columns(draws=pl.lit(1, pl.Int32))
    columns = [name for name in with_draws.columns if name != "draws"]

    def rows() -> Iterator[pl.DataFrame]:
        for part in parts:
            table = part.index(*columns)
            yield table.with_columns(draws=pl.Series(samples.draws[table[AT].to_numpy()])).drop(AT)

    write_parquet_parts(rows(), with_draws.schema, path)


def check(samples: Samples, ledger: Ledger, folder: Path) -> None:
    """Raises `DataError` unless what was written is all that was ingested."""
    kept, rejected = (_by_source(folder / name) for name in (MANIFEST, "ledger.parquet"))
    for source, count in ledger.ingested.items():
        if kept.get(source, 0) + rejected.get(source, 0) != count:
            raise DataError(
                f"{samples.dataset}/{source}: {kept.get(source, 0)} kept + {rejected.get(source, 0)} rejected are not "
                f"the {count} ingested: this is a fault of curation"
            )


def _by_source(path: Path) -> dict[str, int]:
    counted = pl.scan_parquet(path).group_by("source").len().collect(engine="streaming")
    return dict(counted.iter_rows())


def summarise(entry: Dataset, ledger: Ledger, folder: Path, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of summary.json, counted in the tables as they were written."""
    ingested = ledger.ingested
    manifest = pl.scan_parquet(folder / MANIFEST)
    kept = _by_source(folder / MANIFEST)
    counted = (
        pl.scan_parquet(folder / "ledger.parquet")
        .group_by("source", "block", "reason")
        .len()
        .sort("source", "block", "reason")
        .collect(engine="streaming")
    )
    reasons: dict[str, dict[str, int]] = {source: {} for source in ingested}
    for source, block, reason, count in counted.iter_rows():
        reasons[source][f"{block}/{reason}"] = count
    drawn = manifest.group_by("category").agg(kept=pl.len(), draws=pl.col("draws").sum()).sort("category")
    categories = drawn.collect(engine="streaming")
    total = int(categories["draws"].sum())
    return {
        "blocks": [*_earlier(counted, sum(ingested.values())), *blocks],
        "categories": {
            category: {"draws": draws, "kept": count, "share": round(draws / total, 6)}
            for category, count, draws in categories.iter_rows()
        },
        "draws": total,
        "ingested": sum(ingested.values()),
        "kept": sum(kept.values()),
        "rejected": int(counted["len"].sum()),
        "sources": {
            source: {
                "ingested": count,
                "kept": kept.get(source, 0),
                "reasons": reasons[source],
                "rejected": count - kept.get(source, 0),
            }
            for source, count in ingested.items()
        },
        "tokens": {name: _tokens(manifest, name) for name in sorted(entry.tokenizers)},
    }


def _earlier(counted: pl.DataFrame, ingested: int) -> list[dict[str, Any]]:
    """The entries of ingest and sharding in the list of blocks."""
    found, before = [], ingested
    for stage in ("ingest", "shard"):
        mine = counted.filter(pl.col("block") == stage).group_by("reason").agg(pl.col("len").sum()).sort("reason")
        dropped = int(mine["len"].sum())
        found.append({"block": stage, "in": before, "dropped": dropped, "reasons": dict(mine.iter_rows())})
        before -= dropped
    return found


def _tokens(manifest: pl.LazyFrame, name: str) -> dict[str, int]:
    text, instruct = pl.col(f"text_tokens_{name}"), pl.col(f"instruct_tokens_{name}")
    sums = manifest.select(
        instruct=instruct.cast(pl.Int64).sum(), longest_text=text.max(), text=text.cast(pl.Int64).sum()
    ).collect(engine="streaming")
    return {key: int(value or 0) for key, value in sums.row(0, named=True).items()}
