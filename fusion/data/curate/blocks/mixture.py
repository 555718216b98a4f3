"""How often each sample is drawn in an epoch: the weight of its source."""

from typing import ClassVar

import polars as pl

from fusion.data.curate.base import Block, Samples, no_rejects


class Mixture(Block):
    """Drops nothing; sets the column `draws`."""

    name: ClassVar[str] = "mixture"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        weights = {source: weight for source, weight in samples.weights.items() if weight != 1}
        draws = (
            pl.col("source").replace_strict(weights, default=1, return_dtype=pl.Int32)
            if weights
            else pl.lit(1, pl.Int32)
        )
        samples.frame = samples.frame.with_columns(draws=draws)
        return no_rejects()
