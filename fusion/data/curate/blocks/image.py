"""Pictures too small, too long or blank, by what sharding measured."""

from typing import ClassVar

import polars as pl

from fusion.data.curate.base import Block, Samples, first_reason


class Image(Block):
    """Sides of at least `min_side`, longer to shorter at most `max_aspect`, contrast of at least `min_contrast`."""

    name: ClassVar[str] = "image"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        short, long = pl.min_horizontal("width", "height"), pl.max_horizontal("width", "height")
        size = pl.format("{} x {} pixels", "width", "height")
        return first_reason(
            samples.with_limits(),
            [
                ("too-small", short < pl.col("min_side"), size),
                ("too-long", long > pl.col("max_aspect") * short, size),
                (
                    "blank",
                    pl.col("contrast") < pl.col("min_contrast"),
                    pl.format("contrast {}", pl.col("contrast").round(2)),
                ),
            ],
        )
