"""Samples that stand in the data set twice: the same bytes of picture and the same conversation."""

from typing import ClassVar

import polars as pl

from fusion.data.curate.base import AT, Block, Samples


class ExactDuplicates(Block):
    """The first of equal samples is kept. The same picture with another conversation is no duplicate."""

    name: ClassVar[str] = "exact-duplicates"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        key = ["image_sha256", "text_sha256"]
        first = samples.frame.select(
            AT,
            "image_path",
            again=~pl.struct(key).is_first_distinct(),
            original=pl.col("sample_id").first().over(key),
        ).filter("again")
        return first.select(
            pl.col(AT).cast(pl.UInt32),
            reason=pl.when(pl.col("image_path").is_null()).then(pl.lit("same-text")).otherwise(pl.lit("same-sample")),
            evidence=pl.format("equal to {}", "original"),
        )
