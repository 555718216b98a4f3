"""Pictures too small, too long or blank, by what sharding measured."""

from typing import ClassVar

import polars as pl

from fusion.data.curate.base import Block, first_reason, no_rejects
from fusion.data.curate.samples import Part, Samples
from fusion.data.store.filled import filled


class Image(Block):
    """Sides of at least `min_side`, longer to shorter at most `max_aspect`, contrast of at least `min_contrast`."""

    name: ClassVar[str] = "image"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        return pl.concat([no_rejects(), *samples.map("pictures", _measured, samples.parts())])


def _measured(part: Part) -> pl.DataFrame:
    profile = part.profile
    short, long = pl.min_horizontal("width", "height"), pl.max_horizontal("width", "height")
    size = filled("{} x {} pixels", "width", "height")
    rules = []
    if profile.min_side is not None:
        rules.append(("too-small", short < profile.min_side, size))
    if profile.max_aspect is not None:
        rules.append(("too-long", long > profile.max_aspect * short, size))
    if profile.min_contrast is not None:
        told = filled("contrast {}", pl.col("contrast").round(2))
        # Compared in double precision, as the threshold is given.
        rules.append(("blank", pl.col("contrast").cast(pl.Float64) < profile.min_contrast, told))
    return first_reason(part.index("width", "height", "contrast"), rules)
