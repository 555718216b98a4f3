"""Answers that are nearly those of an earlier sample: keys, candidates and their grams go through files.

Memory holds one band's keys at a time (8 bytes a text), the candidates, and their grams as far as the system likes.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from fusion.data.curate.digests import Numbers
from fusion.data.curate.minhash import BANDS, GRAM, band_keys, candidates, similarities, unpack, word_grams
from fusion.data.curate.samples import AT, Marks, Part, Positions, Samples
from fusion.data.curate.words import runs, word_numbers

SCHEMA = {AT: pl.UInt32(), "reason": pl.String(), "evidence": pl.String()}
_PAIRS = 1_000_000


def similar_texts(samples: Samples, left: Marks) -> pl.DataFrame:
    """What to drop of the samples marked in `left`: `at`, `reason`, `evidence`."""
    parts = samples.parts(samples.of("text_similarity"), of=left)
    hashed = list(samples.map("text signatures", _write_keys, parts, samples.scratch))
    at = np.concatenate([np.empty(0, np.int64), *(positions for positions, _ in hashed)])
    pairs = candidates(_read_band(hashed, band) for band in range(BANDS))
    for _, path in hashed:
        path.unlink()
    limits = samples.limits("text_similarity", at, 1.0)
    dropped: dict[int, tuple[float, int]] = {}
    for earlier, later, value in _similar(samples, left, at, pairs, limits):
        if earlier not in dropped and later not in dropped:
            dropped[later] = value, earlier
    rows = sorted(dropped)
    others = samples.ids(at[np.array([dropped[row][1] for row in rows], np.int64)])
    evidence = [
        f"{dropped[row][0]:.2f} of the word 3-grams of {other}" for row, other in zip(rows, others, strict=True)
    ]
    frame = pl.DataFrame({AT: at[np.array(rows, np.int64)], "evidence": pl.Series(evidence, dtype=pl.String)})
    return frame.select(pl.col(AT).cast(pl.UInt32), pl.lit("similar-text").alias("reason"), "evidence")


def _write_keys(part: Part, folder: Path) -> tuple[Positions, Path]:
    """Writes the keys of the texts that have grams; returns `at` of these and the file."""
    texts = part.answers()
    grams, offsets = runs(*word_numbers(texts["value"]), GRAM)
    has = np.flatnonzero(np.diff(offsets))
    path = folder / f"keys-{part.number:06d}.bin"
    band_keys(grams, np.append(offsets[has], len(grams))).tofile(path)
    return texts[AT].to_numpy()[has].astype(np.int64), path


def _read_band(hashed: list[tuple[Positions, Path]], band: int) -> Numbers:
    """The keys of one band of all texts."""
    parts = [np.fromfile(path, np.uint64, len(at), offset=8 * band * len(at)) for at, path in hashed]
    return np.concatenate([np.empty(0, np.uint64), *parts])


def _similar(
    samples: Samples, left: Marks, at: Positions, pairs: Numbers, limits: npt.NDArray[np.float64]
) -> Iterator[tuple[int, int, float]]:
    """Pairs that are as similar as the limit of the later one, in order, with their similarity."""
    needed = np.zeros(len(at), np.bool_)
    for start in range(0, len(pairs), _PAIRS):
        for side in unpack(pairs[start : start + _PAIRS]):
            needed[side] = True
    marks: Marks = np.zeros(len(samples), np.bool_)
    marks[at[needed]] = True
    path = samples.scratch / "grams.bin"
    sizes = np.zeros(len(at), np.int64)
    with path.open("wb") as file:
        done = 0
        places = np.flatnonzero(needed)
        parts = samples.parts(samples.of("text_similarity"), of=left & marks)
        for counts, grams in samples.map("similar texts", _read_grams, parts):
            sizes[places[done : done + len(counts)]] = counts
            done += len(counts)
            file.write(grams.tobytes())
    if done:
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        grams = np.memmap(path, np.uint64, "r")
        for start in range(0, len(pairs), _PAIRS):
            first, second = unpack(pairs[start : start + _PAIRS])
            values = similarities(first, second, grams, offsets)
            near = values >= limits[second]
            yield from zip(first[near].tolist(), second[near].tolist(), values[near].tolist(), strict=True)
        del grams
    path.unlink()


def _read_grams(part: Part) -> tuple[Positions, Numbers]:
    """How many distinct grams each text has, and the grams, one text after the other."""
    grams, offsets = word_grams(part.answers()["value"], GRAM)
    return np.diff(offsets), grams
