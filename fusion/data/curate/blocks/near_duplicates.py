"""Pictures and texts that are nearly those of an earlier sample."""

from typing import ClassVar

import polars as pl

from fusion.data.curate.base import Block, no_rejects
from fusion.data.curate.near_pictures import similar_pictures
from fusion.data.curate.near_texts import similar_texts
from fusion.data.curate.samples import AT, Samples


class NearDuplicates(Block):
    """Greedy in the order of the samples: what is near an earlier one that is kept goes.

    A picture that several samples share (with other conversations) is one picture, kept or dropped as a whole.
    Only sources whose profile sets `image_distance` or `text_similarity` take part.
    """

    name: ClassVar[str] = "near-duplicates"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        pictures = similar_pictures(samples)
        left = samples.kept.copy()
        left[pictures[AT].to_numpy()] = False
        return pl.concat([no_rejects(), pictures, similar_texts(samples, left)]).sort(AT)
