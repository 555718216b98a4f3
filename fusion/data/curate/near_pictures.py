"""Pictures that look like an earlier one: hashes that differ in few bits, and colours that differ little."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from fusion.data.curate.digests import Numbers, equal_rows, halves
from fusion.data.curate.hamming import Hashes, colour_difference, distance, near_pairs_within
from fusion.data.curate.samples import AT, Marks, Part, Positions, Samples
from fusion.data.store.filled import filled

MIN_QUALITY = 50
"""PDQ's own measure of how much a picture has to hash; its authors advise against matching below 50."""

MAX_COLOUR_DIFFERENCE = 16.0
"""Of 255, on average over a picture: a red and a blue hat of one drawing have one hash, but are two pictures."""

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
    looks = equal_rows(hashes[shown].view(np.uint64))
    limits = samples.limits("image_distance", at[shown], -1).astype(np.int64)
    pairs = near_pairs_within(hashes[shown[looks.first]], int(limits.max(initial=0)))
    # Only pictures that share their hash or come near to another's have to be looked at one by one.
    company = np.bincount(looks.of, minlength=len(looks.first)) > 1
    company[pairs.ravel()] = True
    involved = np.flatnonzero(company[looks.of])
    near = _Neighbours(pairs, len(looks.first))
    colours = _colours(samples, at[shown[involved]])
    kept: dict[int, list[tuple[int, bytes, bytes]]] = {}
    dropped: list[tuple[int, int, int]] = []
    for place, colour in zip(involved.tolist(), colours, strict=True):
        mine, limit, own = int(looks.of[place]), int(limits[place]), hashes[shown[place]].tobytes()
        close = [
            (bits, other)
            for neighbour in near.of(mine)
            for other, theirs, other_colour in kept.get(neighbour, [])
            if (bits := distance(own, theirs)) <= limit
            and colour_difference(colour, other_colour) <= MAX_COLOUR_DIFFERENCE
        ]
        if close:
            dropped.append((place, *min(close)))
        else:
            kept.setdefault(mine, []).append((place, own, colour))
    return _rejects(samples, at, pictures.of, shown, dropped)


def _hashes(part: Part) -> tuple[Positions, Numbers, Hashes]:
    """`at`, 128 bits of the picture's sha256 and its hash, of pictures with something to hash."""
    found = part.index("image_sha256", "pdq", "pdq_quality").filter(pl.col("pdq_quality") >= MIN_QUALITY)
    hashes = np.frombuffer(b"".join(found["pdq"].to_list()), dtype=np.uint8).reshape(-1, 32)
    return found[AT].to_numpy().astype(np.int64), halves(found["image_sha256"]), hashes


def _colours(samples: Samples, at: Positions) -> Iterator[bytes]:
    marks: Marks = np.zeros(len(samples), np.bool_)
    marks[at] = True
    parts = samples.parts(samples.of("image_distance"), of=marks)
    for column in samples.map("colours", _read_colours, parts):
        yield from column


def _read_colours(part: Part) -> list[bytes]:
    return part.index("colours")["colours"].to_list()


class _Neighbours:
    """Of each hash the hashes near to it, itself first."""

    def __init__(self, pairs: npt.NDArray[np.int64], count: int) -> None:
        both = np.concatenate([pairs, pairs[:, ::-1]])
        self._others = both[np.argsort(both[:, 0], kind="stable"), 1]
        self._offsets = np.concatenate([[0], np.cumsum(np.bincount(both[:, 0], minlength=count))])

    def of(self, number: int) -> list[int]:
        return [number, *self._others[self._offsets[number] : self._offsets[number + 1]].tolist()]


def _rejects(
    samples: Samples, at: Positions, picture: Positions, shown: Positions, dropped: list[tuple[int, int, int]]
) -> pl.DataFrame:
    """Every sample of each dropped picture: (its number, bits, number of the picture that is kept)."""
    table = np.array(dropped, np.int64).reshape(-1, 3)
    entry = np.full(len(shown), -1)
    entry[table[:, 0]] = np.arange(len(table))
    hit = np.flatnonzero(entry[picture] >= 0)
    which = table[entry[picture[hit]]]
    frame = pl.DataFrame({AT: at[hit], "bits": which[:, 1], "other": samples.ids(at[shown[which[:, 2]]])})
    told = filled("{} of 256 bits from {}", "bits", "other")
    return frame.select(pl.col(AT).cast(pl.UInt32), reason=pl.lit("similar-picture"), evidence=told)
