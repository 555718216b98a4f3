"""What every curation block is and gets: samples as columns, thresholds beside them, texts in batches.

A block says which samples are dropped and why; counting, writing and taking them out is done for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from fusion.data.errors import DataError
from fusion.data.ingest import SAMPLES
from fusion.data.kinds import find_classes
from fusion.data.store.folders import readable
from fusion.settings import CurationProfile

AT = "at"
"""Position of a sample in the data set: sources in the catalog's order, rows in the file's order."""
REJECTS = {AT: pl.UInt32(), "reason": pl.String(), "evidence": pl.String()}
_BATCH = 100_000


@dataclass
class Samples:
    """The samples that are still kept.

    `frame`: `at` and the index's columns. `with_limits` adds the thresholds of each sample's source as columns, named
    as in params.yaml: a comparison with one that is null is null, which drops nothing.
    """

    root: Path
    dataset: str
    profiles: dict[str, CurationProfile]
    weights: dict[str, int]
    benchmarks: list[str]
    frame: pl.DataFrame

    def of(self, rule: str) -> list[str]:
        """The sources whose profile switches `rule` on, in order."""
        return [source for source, profile in self.profiles.items() if getattr(profile, rule)]

    def limits(self) -> pl.DataFrame:
        """One row a source: `source` and its thresholds (lists left out)."""
        rows = [
            {"source": source, **profile.model_dump(exclude={"scripts", "scores"})}
            for source, profile in self.profiles.items()
        ]
        numbers = {
            "max_aspect": pl.Float64,
            "min_contrast": pl.Float64,
            "max_repetition": pl.Float64,
            "text_similarity": pl.Float64,
        }
        schema = {
            name: numbers.get(name, pl.Boolean if isinstance(value, bool) else pl.Int64)
            for name, value in rows[0].items()
        }
        return pl.DataFrame(
            rows, schema={**schema, "source": pl.String, "pii": pl.Boolean, "useless_texts": pl.Boolean}
        )

    def with_limits(self) -> pl.DataFrame:
        """`frame` with the thresholds joined."""
        return self.frame.join(self.limits(), on="source", how="left", maintain_order="left")

    def messages(self, sources: list[str]) -> Iterator[pl.DataFrame]:
        """The messages of `sources` in bounded batches: `at`, `source`, `turn` (0-based message), `role`, `value`."""
        for source in sources:
            kept = self.frame.lazy().filter(pl.col("source") == source).select(AT, "source", "row").collect()
            path = self.root / "data/raw" / self.dataset / source / SAMPLES
            raw = pl.scan_parquet(path).select("row", "conversations")
            start = 0
            while True:
                with readable(path, f"fusion ingest {self.dataset} {source}"):
                    batch = raw.slice(start, _BATCH).collect()
                if batch.is_empty():
                    break
                start += _BATCH
                joined = kept.join(batch, on="row", how="inner", maintain_order="left")
                turns = joined.with_columns(turn=pl.int_ranges(0, pl.col("conversations").list.len()))
                exploded = turns.explode("conversations", "turn").unnest("conversations")
                yield exploded.select(AT, "source", "turn", pl.col("from").alias("role"), "value")


class Block(ABC):
    """One job of curation. A new block is one more file in this folder with a subclass in it."""

    name: ClassVar[str]

    @abstractmethod
    def rejects(self, samples: Samples) -> pl.DataFrame:
        """The samples to drop: `at`, `reason`, `evidence` (see REJECTS), each sample at most once."""


def no_rejects() -> pl.DataFrame:
    """An empty answer of a block."""
    return pl.DataFrame(schema=REJECTS)


def first_reason(frame: pl.DataFrame, rules: list[tuple[str, pl.Expr, pl.Expr]]) -> pl.DataFrame:
    """Applies (reason, condition, evidence) rules to `frame`; the first whose condition is true gives the reason."""
    reason, evidence = pl.lit(None, dtype=pl.String), pl.lit(None, dtype=pl.String)
    for code, condition, told in reversed(rules):
        reason = pl.when(condition).then(pl.lit(code)).otherwise(reason)
        evidence = pl.when(condition).then(told).otherwise(evidence)
    answered = frame.select(pl.col(AT).cast(pl.UInt32), reason=reason, evidence=evidence)
    return answered.filter(pl.col("reason").is_not_null())


def load_blocks(names: list[str]) -> list[Block]:
    """The blocks `names` (params.yaml, curation.blocks); raises `DataError` naming the known ones."""
    known: dict[str, type[Block]] = find_classes("fusion.data.curate.blocks", Block, "name")
    for name in names:
        if name not in known:
            raise DataError(
                f"params.yaml: curation.blocks: there is no block `{name}`; known: {', '.join(sorted(known))}"
            )
    return [known[name]() for name in names]
