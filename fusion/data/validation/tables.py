"""The tables that the suites look at: narrow columns of the manifest in parts, and small tables of totals.

Great Expectations reads pandas; ten million wide rows of it would take 5 GiB: a table holds a part of one source and
few columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from fusion.data.sharding.shards import index_schema
from fusion.data.store.folders import parquet_file, read_json, readable
from fusion.hashing import file_sha256

if TYPE_CHECKING:
    from fusion.data.catalog import Dataset

_IMAGE = [
    "image_offset",
    "image_size",
    "image_path",
    "image_sha256",
    "pdq",
    "pdq_quality",
    "width",
    "height",
    "contrast",
    "colours",
]


class Curated:
    """The output of curation of one data set, read as needed."""

    def __init__(self, root: Path, name: str, entry: Dataset, share: float | None = None) -> None:
        """`share`: of each source that a pilot takes. Raises `DataError` when the data set was not curated."""
        self.name = name
        self._share = share or 1.0
        self.entry = entry
        self._folder = root / "data/manifests" / name
        self._made_by = f"fusion curate {name}"
        self.summary: dict[str, Any] = read_json(self._folder / "summary.json", self._made_by)
        self._ledger = self._folder / "ledger.parquet"
        parquet_file(self._ledger, self._made_by)
        self._path = self._folder / "manifest.parquet"
        self._columns = parquet_file(self._path, self._made_by).schema_arrow
        self.manifest_sha256 = file_sha256(self._path)
        numbered = pl.scan_parquet(self._path).select("source").with_row_index()
        places = numbered.group_by("source").agg(pl.len(), first=pl.col("index").min(), last=pl.col("index").max())
        self._places = {name: (rows, first, last + 1) for name, rows, first, last in self._collect(places).iter_rows()}

    def schema(self) -> pl.DataFrame:
        """One row a column of the manifest: `column`, `type`, `expected`; a missing or unknown one is "none"."""
        found = {field.name: str(field.type) for field in self._columns}
        wanted: dict[str, str] = {}
        for field in [*index_schema(sorted(self.entry.tokenizers)), pa.field("draws", pa.int32())]:
            if field.name != "structure":
                wanted[field.name] = str(field.type)
        names = list(dict.fromkeys([*wanted, *found]))
        types = [_plain_type(found.get(name, "none")) for name in names]
        return pl.DataFrame(
            {"column": names, "type": types, "expected": [_plain_type(wanted.get(name, "none")) for name in names]}
        )

    def _collect(self, frame: pl.LazyFrame, path: Path | None = None) -> pl.DataFrame:
        with readable(path or self._path, self._made_by):
            return frame.collect(engine="streaming")

    def extent(self, name: str) -> int:
        """Rows of the manifest from the first to the last of a source; those of others between them would count."""
        _, start, end = self._places.get(name, (0, 0, 0))
        return int(end - start)

    def _rows(self, name: str, offset: int, count: int) -> pl.LazyFrame:
        _, start, end = self._places.get(name, (0, 0, 0))
        inside = pl.scan_parquet(self._path).slice(start + offset, min(count, end - start - offset))
        return inside.filter(pl.col("source") == name)

    def repeated(self, name: str) -> pl.DataFrame:
        """`sample_id` of the rows of a source whose id comes several times."""
        ids = self._rows(name, 0, self.extent(name)).select("sample_id")
        hashes = self._collect(ids.select(pl.col("sample_id").hash())).to_series()
        again = hashes.filter(hashes.is_duplicated()).unique()
        # Two ids may have one hash: the expectation looks at the ids themselves.
        return self._collect(ids.filter(pl.col("sample_id").hash().is_in(again.implode())))

    def source(self, name: str, offset: int, count: int) -> pl.DataFrame:
        """Rows of one source out of `count` of its extent, from `offset` on.

        `image`: whether the columns of its picture are all there, none, or some.
        """
        tokens = [f"{kind}_tokens_{key}" for key in sorted(self.entry.tokenizers) for kind in ("text", "instruct")]
        there = pl.sum_horizontal(pl.col(column).is_not_null() for column in _IMAGE)
        image = (
            pl.when(there == 0)
            .then(pl.lit("none"))
            .when(there == len(_IMAGE))
            .then(pl.lit("all"))
            .otherwise(pl.lit("some"))
        )
        columns = [
            "sample_id",
            "shard",
            "record_offset",
            "record_size",
            "sha256",
            "turns",
            "answer_chars",
            "draws",
            "width",
            "height",
        ]
        labels = ["category", "licence_declared", "licence_verified"]
        return self._collect(self._rows(name, offset, count).select(*columns, *tokens, *labels, image=image))

    def totals(self) -> pl.DataFrame:
        """One row a source: its numbers in the summary, the manifest and the ledger, and their differences."""
        counted = pl.scan_parquet(self._ledger).group_by("source").len()
        logged = dict(self._collect(counted, self._ledger).iter_rows())
        table = []
        for name in [*self.entry.sources, *sorted(set(self.summary["sources"]) - set(self.entry.sources))]:
            facts = self.summary["sources"].get(name, {"ingested": 0, "kept": 0, "rejected": 0, "reasons": {}})
            count = self.entry.sources[name].count if name in self.entry.sources else None
            table.append(
                {
                    "source": name,
                    "ingested": facts["ingested"],
                    "kept": facts["kept"],
                    "rejected": facts["rejected"],
                    "kept_share": facts["kept"] / max(1, facts["ingested"]),
                    "not_accounted_for": facts["ingested"] - facts["kept"] - facts["rejected"],
                    "kept_but_not_in_manifest": facts["kept"] - self._places.get(name, (0, 0, 0))[0],
                    "rejected_but_not_in_ledger": facts["rejected"] - logged.get(name, 0),
                    "without_reason": facts["rejected"] - sum(facts["reasons"].values()),
                    "catalog_count_ratio": None if count is None else facts["ingested"] / (1000 * count * self._share),
                }
            )
        return pl.DataFrame(table, schema_overrides={"catalog_count_ratio": pl.Float64})

    def whole(self) -> pl.DataFrame:
        """One row for the data set."""
        logged = pl.scan_parquet(self._ledger)
        manifest = pl.scan_parquet(self._path).select("sample_id")
        both = manifest.join(logged.select("sample_id"), on="sample_id", how="semi").select(pl.len())
        incomplete = pl.any_horizontal(pl.col("block", "reason", "evidence").is_null()).sum()
        counts = logged.select(again=pl.len() - pl.col("sample_id").n_unique(), incomplete=incomplete)
        ledger = self._collect(counts, self._ledger).row(0, named=True)
        facts = self.summary
        return pl.DataFrame(
            {
                "kept_share": [facts["kept"] / max(1, facts["ingested"])],
                "not_accounted_for": [facts["ingested"] - facts["kept"] - facts["rejected"]],
                "kept_and_rejected": [self._collect(both).item()],
                "rejected_twice": [int(ledger["again"])],
                "reasons_missing": [int(ledger["incomplete"])],
                "licences_not_verified": [
                    sum(source.licence.verified is None for source in self.entry.sources.values())
                ],
            }
        )

    def categories(self) -> pl.DataFrame:
        """One row a category with bounds: its share of the draws; 0 where the category is missing."""
        bounds = self.entry.expect.category_shares
        shares = [self.summary["categories"].get(name, {"share": 0.0})["share"] for name in bounds]
        return pl.DataFrame(
            {"category": list(bounds), "share": shares}, schema={"category": pl.String, "share": pl.Float64}
        )


def _plain_type(name: str) -> str:
    """Parquet writers differ in which of Arrow's variable-length types they note down; the content is the same."""
    if name.startswith(("fixed_size_binary", "large_binary", "binary")):
        return "binary"
    return name.removeprefix("large_").replace("string_view", "string").replace("_view", "")
