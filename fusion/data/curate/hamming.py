"""Exact search for hashes of 256 bits that differ in few bits.

Of d + 1 bands of a hash at least one is equal when at most d bits differ: only hashes that share a band are compared.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint8]
"""[n, 32]: PDQ hashes."""
Pairs = npt.NDArray[np.int64]
"""[m, 2]: positions."""
BITS = 256
_CANDIDATES = 4_000_000


def near_pairs(first: Hashes, second: Hashes, distance: int) -> Pairs:
    """All (i, j) with at most `distance` differing bits between `first[i]` and `second[j]`, sorted, each once."""
    words = [np.ascontiguousarray(hashes).view(np.uint64).reshape(-1, 4) for hashes in (first, second)]
    bits = [np.unpackbits(hashes, axis=1) for hashes in (first, second)]
    found = [np.empty((0, 2), dtype=np.int64)]
    edges = np.linspace(0, BITS, distance + 2).round().astype(int)
    for start, end in pairwise(edges.tolist()):
        # 64 bits of a longer band find a superset of its matches.
        stop = min(end, start + 64)
        for left, right in _equal(_values(bits[0], start, stop), _values(bits[1], start, stop)):
            differing = np.bitwise_count(words[0][left] ^ words[1][right]).sum(axis=1)
            near = differing <= distance
            found.append(np.stack([left[near], right[near]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def distance(first: bytes, second: bytes) -> int:
    """Number of differing bits of two hashes."""
    return (int.from_bytes(first, "big") ^ int.from_bytes(second, "big")).bit_count()


def colour_difference(first: bytes, second: bytes) -> float:
    """Mean absolute difference, 0-255, of two grids of mean colours (see fusion/data/store/pixels.py)."""
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) / len(first)


def _values(bits: npt.NDArray[np.uint8], start: int, end: int) -> npt.NDArray[np.uint64]:
    weights = np.left_shift(np.uint64(1), np.arange(end - start, dtype=np.uint64))
    return bits[:, start:end].astype(np.uint64) @ weights


def _equal(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> Iterator[tuple[Pairs, Pairs]]:
    """Positions of equal values in both, in batches of bounded size."""
    order = np.argsort(second, kind="stable")
    values = second[order]
    low, high = np.searchsorted(values, first, "left"), np.searchsorted(values, first, "right")
    counts = high - low
    start = 0
    while start < len(first):
        total = np.cumsum(counts[start : start + _CANDIDATES])
        end = start + max(1, int(np.searchsorted(total, _CANDIDATES, "right")))
        part = counts[start:end]
        left = np.repeat(np.arange(start, end), part)
        within = np.arange(len(left)) - np.repeat(np.cumsum(part) - part, part)
        yield left, order[np.repeat(low[start:end], part) + within]
        start = end
