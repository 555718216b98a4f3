"""The files that ingest, shard, curate and validate left of one data set, and how a sample is found in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from fusion.data.errors import DataError
from fusion.data.ingest import SAMPLES
from fusion.data.store.folders import parquet_file, read_json, read_parquet, readable
from fusion.documents import did_you_mean

if TYPE_CHECKING:
    from fusion.data.catalog import Dataset

_SHOWN = 5


class Outputs:
    """Tables are opened lazily: the data set may be large, and mostly one row is wanted."""

    def __init__(self, root: Path, dataset: str, entry: Dataset) -> None:
        """Raises `DataError`, naming the command to run, when the data set was not ingested, sharded and curated."""
        self.root = root
        self.dataset = dataset
        self.entry = entry
        self.sources = list(entry.sources)
        self.made_by = f"fusion curate {dataset}"
        self._folder = root / "data/manifests" / dataset
        self.summary: dict[str, Any] = read_json(self._folder / "summary.json", self.made_by)
        self.ledger = read_parquet(self._folder / "ledger.parquet", self.made_by)
        self.manifest_path = self._folder / "manifest.parquet"
        parquet_file(self.manifest_path, self.made_by)
        for source in self.sources:
            parquet_file(self._raw(source), f"fusion ingest {dataset} {source}")
            parquet_file(self._index(source), f"fusion shard {dataset} {source}")

    @property
    def blocks(self) -> list[str]:
        """The blocks of the run that made the manifest, ingest and shard before them."""
        return [block["block"] for block in self.summary["blocks"]]

    def _raw(self, source: str) -> Path:
        return self.root / "data/raw" / self.dataset / source / SAMPLES

    def _index(self, source: str) -> Path:
        return self.root / "data/index" / self.dataset / source / "index.parquet"

    def manifest(self) -> pl.LazyFrame:
        """The kept samples, in their order."""
        return pl.scan_parquet(self.manifest_path)

    def index(self, source: str) -> pl.LazyFrame:
        """All samples of a source that could be read."""
        return pl.scan_parquet(self._index(source))

    def raw(self, source: str) -> pl.LazyFrame:
        """All samples of a source that could be ingested: `row`, `key`, `image`, `conversations`."""
        return pl.scan_parquet(self._raw(source))

    def one(self, frame: pl.LazyFrame, **equal: Any) -> dict[str, Any] | None:
        """The first row whose columns are `equal`, or None."""
        with readable(self.manifest_path.parent, self.made_by):
            rows = frame.filter(*(pl.col(key) == value for key, value in equal.items())).head(1).collect()
        return rows.to_dicts()[0] if len(rows) else None

    def verdict(self, sample_id: str) -> dict[str, Any] | None:
        """The sample's row of the ledger; None when it was kept."""
        rows = self.ledger.filter(pl.col("sample_id") == sample_id).to_dicts()
        return rows[0] if rows else None

    def lock(self, source: str) -> Any:
        """Where the pictures of a source lie, with their archives' sha256."""
        path = self.root / "data/raw" / self.dataset / source / "images.lock.json"
        return read_json(path, f"fusion ingest {self.dataset} {source}")

    def validation(self) -> dict[str, Any] | None:
        """The result of the last validation that passed, None without one."""
        path = self.root / "data/validation" / self.dataset / "validation.json"
        return read_json(path, f"fusion validate {self.dataset}") if path.is_file() else None

    def find(self, text: str) -> str:
        """The id of the sample that `text` names: an id, SOURCE/ID as in the source's own file, or a unique prefix.

        `DATASET/` may be left out, and so may the zeros before a row's number.

        Raises:
            DataError: none is named so, or several; the message names the nearest.
        """
        short = text.removeprefix(f"{self.dataset}/")
        source, slash, rest = short.partition("/")
        if slash and source in self.sources:
            number = f"{int(rest):08d}" if rest.isascii() and rest.isdigit() else rest
            for found in ([f"{self.dataset}/{source}/{number}"], self._own(source, rest)):
                known = self._known(pl.col("sample_id").is_in(found), [source])
                if len(known) == 1:
                    return known[0]
                if known:
                    raise DataError(f"{len(known)} samples of {source} have the id `{rest}`: {_listed(known)}")
        matching = [name for name in self.sources if name.startswith(source) and (not slash or name == source)]
        known = self._known(pl.col("sample_id").str.starts_with(f"{self.dataset}/{short}"), matching)
        if len(known) == 1:
            return known[0]
        if known:
            raise DataError(f"`{text}` is the start of {len(known)} ids or more, such as {_listed(known)}")
        raise DataError(f"{self.dataset} has no sample `{text}`{self._nearest(source, rest)}")

    def _known(self, condition: pl.Expr, sources: list[str], most: int = 100) -> list[str]:
        """Up to `most` ids, of samples in the index or the ledger, for which `condition` holds."""
        tables = [self.index(source).select("sample_id") for source in sources]
        tables.append(self.ledger.lazy().filter(pl.col("source").is_in(sources)).select("sample_id"))
        found: set[str] = set()
        for table in tables:
            with readable(self.manifest_path.parent, self.made_by):
                found.update(table.filter(condition).head(most).collect()["sample_id"].to_list())
        return sorted(found)

    def _own(self, source: str, key: str) -> list[str]:
        rows = self.raw(source).filter(pl.col("key") == key).select("row").head(100).collect()["row"].to_list()
        return [f"{self.dataset}/{source}/{row:08d}" for row in rows]

    def _nearest(self, source: str, rest: str) -> str:
        if source not in self.sources:
            return f": it has no source `{source}`{did_you_mean(source, self.sources)}"
        if rest.isascii() and rest.isdigit():
            far = (pl.col("sample_id").str.slice(-8).cast(pl.Int64, strict=False) - int(rest[-18:])).abs()
            ids = pl.concat(
                [
                    self.index(source).select("sample_id"),
                    self.ledger.lazy().filter(pl.col("source") == source).select("sample_id"),
                ]
            )
            near = ids.unique().with_columns(far=far).bottom_k(_SHOWN, by=["far", "sample_id"]).sort("far", "sample_id")
            return f"; the nearest: {_listed(near.collect()['sample_id'].to_list())}"
        keys = self.raw(source).select("key").drop_nulls().unique()
        for length in range(len(rest), -1, -1):
            near_keys = keys.filter(pl.col("key").str.starts_with(rest[:length])).bottom_k(500, by="key").collect()
            if len(near_keys):
                names = near_keys["key"].to_list()
                names.sort(key=lambda name: (-_common(name, rest), abs(len(name) - len(rest)), name))
                return f"; the nearest: {_listed([f'{source}/{name}' for name in names[:_SHOWN]])}"
        return f": use {source}/ROW, with the row's number in the source's file from 0 on"


def messages_of(samples: pl.LazyFrame) -> pl.DataFrame:
    """One row a message of samples that have `conversations`: `role` and `value` in its place."""
    exploded = samples.explode("conversations").unnest("conversations").rename({"from": "role"})
    return exploded.filter(pl.col("value").is_not_null()).collect()


def _common(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    return next((at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), len(first))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
