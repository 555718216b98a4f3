"""How often each sample is drawn in an epoch: the weight of its source."""

from typing import ClassVar

import polars as pl

from fusion.data.curate.base import Block, no_rejects
from fusion.data.curate.samples import Samples


class Mixture(Block):
    """Drops nothing; sets the draws."""

    name: ClassVar[str] = "mixture"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        for source, weight in samples.weights.items():
            samples.draws[samples.place(source)] = weight
        return no_rejects()
