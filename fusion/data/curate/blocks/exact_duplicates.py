"""Samples that stand in the data set twice: the same bytes of picture and the same conversation."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from fusion.data.curate.base import REJECTS, Block, no_rejects
from fusion.data.curate.digests import Numbers, equal_rows, halves
from fusion.data.curate.samples import AT, Part, Samples
from fusion.data.curate.words import mix
from fusion.data.store.filled import filled

Keys = tuple[npt.NDArray[np.int64], Numbers, npt.NDArray[np.bool_]]


class ExactDuplicates(Block):
    """The first of equal samples is kept. The same picture with another conversation is no duplicate.

    Told by 128 bits of the two sha256 sums.
    """

    name: ClassVar[str] = "exact-duplicates"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        parts = list(samples.map("exact duplicates", _keys, samples.parts()))
        if not parts:
            return no_rejects()
        at, keys, bare = (np.concatenate(column) for column in zip(*parts, strict=True))
        groups = equal_rows(keys)
        again = np.flatnonzero(groups.first[groups.of] != np.arange(len(at)))
        reasons = pl.Series(["same-sample", "same-text"]).gather(bare[again].astype(np.int64))
        originals = samples.ids(at[groups.first[groups.of[again]]])
        told = pl.DataFrame({AT: at[again], "reason": reasons, "evidence": originals}, schema=REJECTS)
        return told.with_columns(evidence=filled("equal to {}", "evidence"))


def _keys(part: Part) -> Keys:
    """`at`, 128 bits of picture and conversation [n, 2], and whether there is no picture."""
    index = part.index("image_sha256", "text_sha256", "image_path")
    keys = halves(index["image_sha256"]) ^ mix(halves(index["text_sha256"]))
    return index[AT].to_numpy().astype(np.int64), keys, index["image_path"].is_null().to_numpy()
