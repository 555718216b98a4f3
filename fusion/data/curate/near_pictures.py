"""Pictures that look like an earlier one: hashes that differ in few bits, and colours that differ little."""

import numpy as np
import polars as pl

from fusion.data.curate.digests import Numbers, equal_rows, halves
from fusion.data.curate.greedy import GRID, Greedy, Grids
from fusion.data.curate.hamming import Hashes, near_pairs_within
from fusion.data.curate.samples import AT, Marks, Part, Positions, Samples
from fusion.data.store.filled import filled

MIN_QUALITY = 50
"""PDQ's own measure of how much a picture has to hash; its authors advise against matching below 50."""

MAX_COLOUR_DIFFERENCE = 16.0
"""Of 255, on average over a picture: a red and a blue hat of one drawing have one hash, but are two pictures."""

MOST_PAIRS = 2_000_000
"""Pairs of near pictures that are held at a time; ten thousand near copies of one have fifty million."""

SCHEMA = {AT: pl.UInt32(), "reason": pl.String(), "evidence": pl.String()}


def similar_pictures(samples: Samples) -> pl.DataFrame:
    """What to drop: `at`, `reason`, `evidence`; all samples of a picture, or none."""
    parts = list(samples.map("picture hashes", _hashes, samples.parts(samples.of("image_distance"))))
    if not parts:
        return pl.DataFrame(schema=SCHEMA)
    at, digests, hashes = (np.concatenate(column) for column in zip(*parts, strict=True))
    del parts
    pictures = equal_rows(digests)
    shown = pictures.first
    hashes, places = hashes[shown], np.arange(len(shown))
    limits = samples.limits("image_distance", at[shown], -1).astype(np.int64)
    pairs = near_pairs_within(hashes, int(limits.max(initial=0)), MOST_PAIRS)
    # Colours are read where hashes are near; with more pairs than are held that may be any picture.
    colours = _colours(samples, at[shown], places if pairs is None else np.unique(pairs))
    greedy = Greedy(hashes, limits, colours, MAX_COLOUR_DIFFERENCE, MOST_PAIRS)
    greedy.decide(places, pairs)
    return _rejects(samples, at, pictures.of, shown, *greedy.dropped())


def _hashes(part: Part) -> tuple[Positions, Numbers, Hashes]:
    """`at`, 128 bits of the picture's sha256 and its hash, of pictures with something to hash."""
    found = part.index("image_sha256", "pdq", "pdq_quality").filter(pl.col("pdq_quality") >= MIN_QUALITY)
    hashes = np.frombuffer(b"".join(found["pdq"].to_list()), dtype=np.uint8).reshape(-1, 32)
    return found[AT].to_numpy().astype(np.int64), halves(found["image_sha256"]), hashes


def _colours(samples: Samples, at: Positions, needed: Positions) -> Grids:
    """[pictures, 48]: the colours of the pictures `needed`, of those at `at`; of the others, zeros."""
    marks: Marks = np.zeros(len(samples), np.bool_)
    marks[at[needed]] = True
    parts = samples.parts(samples.of("image_distance"), of=marks)
    # What is not written to takes no memory.
    colours, start = np.zeros((len(at), GRID), np.uint8), 0
    for column in samples.map("colours", _read_colours, parts):
        end = start + len(column) // GRID
        colours[needed[start:end]] = np.frombuffer(column, np.uint8).reshape(-1, GRID)
        start = end
    return colours


def _read_colours(part: Part) -> bytes:
    return b"".join(part.index("colours")["colours"].to_list())


def _rejects(
    samples: Samples,
    at: Positions,
    picture: Positions,
    shown: Positions,
    dropped: Positions,
    bits: Positions,
    other: Positions,
) -> pl.DataFrame:
    """Every sample of each dropped picture, with its bits from the `other` picture, which is kept."""
    entry = np.full(len(shown), -1)
    entry[dropped] = np.arange(len(dropped))
    hit = np.flatnonzero(entry[picture] >= 0)
    which = entry[picture[hit]]
    frame = pl.DataFrame({AT: at[hit], "bits": bits[which], "other": samples.ids(at[shown[other[which]]])})
    told = filled("{} of 256 bits from {}", "bits", "other")
    return frame.select(pl.col(AT).cast(pl.UInt32), reason=pl.lit("similar-picture"), evidence=told)
