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
_CANDIDATES = 2_000_000
_Words = npt.NDArray[np.uint64]


def near_pairs(first: Hashes, second: Hashes, distance: int) -> Pairs:
    """All (i, j) with at most `distance` differing bits between `first[i]` and `second[j]`, sorted, each once."""
    return _sorted(list(_found(first, second, distance)), len(second))


def near_batches(first: Hashes, second: Hashes, distance: int) -> Iterator[Pairs]:
    """The pairs of `near_pairs`, each once, in batches of bounded size and in no order that means anything."""
    for numbers in _found(first, second, distance):
        yield _pairs(numbers, len(second))


def near_pairs_within(hashes: Hashes, distance: int, most: int) -> Pairs | None:
    """All (i, j), i < j, with at most `distance` differing bits between `hashes[i]` and `hashes[j]`, as above.

    None as soon as more than `most` are found: of n hashes all near to one another there are n * (n - 1) / 2.
    """
    words, count = _words(hashes), 0
    bands, found = _bands(distance), []
    for number, (start, end) in enumerate(bands):
        for left, right in _equal_within(_values(words, start, end)):
            found.append(_near(words, words, left, right, distance, bands[:number]))
            count += len(found[-1])
            if count > most:
                return None
    return _sorted(found, len(words))


def distance(first: bytes, second: bytes) -> int:
    """Number of differing bits of two hashes."""
    return (int.from_bytes(first, "big") ^ int.from_bytes(second, "big")).bit_count()


def colour_difference(first: bytes, second: bytes) -> float:
    """Mean absolute difference, 0-255, of two grids of mean colours (see fusion/data/store/pixels.py)."""
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) / len(first)


def _found(first: Hashes, second: Hashes, distance: int) -> Iterator[Pairs]:
    """Near pairs as numbers (see `_near`), batch by batch."""
    ours, theirs = _words(first), _words(second)
    bands = _bands(distance)
    for number, (start, end) in enumerate(bands):
        for left, right in _equal(_values(ours, start, end), _values(theirs, start, end)):
            yield _near(ours, theirs, left, right, distance, bands[:number])


def _bands(distance: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, BITS, distance + 2).round().astype(int)
    # 64 bits of a longer band find a superset of its matches.
    return [(start, min(end, start + 64)) for start, end in pairwise(edges.tolist())]


def _words(hashes: Hashes) -> _Words:
    return np.ascontiguousarray(hashes).view(">u8").astype(np.uint64).reshape(-1, 4)


def _values(words: _Words, start: int, end: int) -> _Words:
    """The bits from `start` to `end` of each hash as a number."""
    number, skipped = divmod(start, 64)
    values = words[:, number] << np.uint64(skipped)
    if skipped and end > 64 * (number + 1):
        values |= words[:, number + 1] >> np.uint64(64 - skipped)
    return values >> np.uint64(64 - (end - start))


def _near(
    first: _Words, second: _Words, left: Pairs, right: Pairs, distance: int, earlier: list[tuple[int, int]]
) -> Pairs:
    """Each near pair as one number, `left` times the length of `second` plus `right`, unless a band before has it.

    Near duplicates share most of their bands: kept for each of them, they would take ten times the memory.
    """
    differing = first[left] ^ second[right]
    near = np.flatnonzero(np.bitwise_count(differing).sum(axis=1) <= distance)
    for start, end in earlier:
        near = near[_values(differing[near], start, end) != 0]
    return left[near] * len(second) + right[near]


def _sorted(found: list[Pairs], width: int) -> Pairs:
    numbers = np.concatenate([np.empty(0, np.int64), *found])
    found.clear()
    numbers.sort()
    return _pairs(numbers, width)


def _pairs(numbers: Pairs, width: int) -> Pairs:
    pairs = np.empty((len(numbers), 2), np.int64)
    np.divmod(numbers, max(width, 1), pairs[:, 0], pairs[:, 1])
    return pairs


def _equal(first: _Words, second: _Words) -> Iterator[tuple[Pairs, Pairs]]:
    """Positions of equal values in both, in batches of bounded size."""
    order = np.argsort(second, kind="stable")
    values = second[order]
    low, high = np.searchsorted(values, first, "left"), np.searchsorted(values, first, "right")
    for row, place in _spread(low, high - low):
        yield row, order[place]


def _equal_within(values: _Words) -> Iterator[tuple[Pairs, Pairs]]:
    """Positions (i, j), i < j, of equal values, in batches of bounded size."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(values) else np.empty(0, int)
    ends = np.append(starts[1:], len(values))
    sizes = ends - starts
    several = sizes > 1
    # Each member of a group with all that follow it there.
    members = np.repeat(starts[several], sizes[several])
    members += np.arange(len(members)) - np.repeat(np.cumsum(sizes[several]) - sizes[several], sizes[several])
    following = np.repeat(ends[several], sizes[several]) - members - 1
    for row, place in _spread(members + 1, following):
        yield order[members[row]], order[place]


def _spread(starts: Pairs, counts: Pairs) -> Iterator[tuple[Pairs, Pairs]]:
    """(i, starts[i]), (i, starts[i] + 1), ... of `counts[i]` for each i, in batches of bounded size."""
    ends = np.cumsum(counts)
    for start in range(0, int(ends[-1]) if len(ends) else 0, _CANDIDATES):
        # A batch begins and ends inside a row: one may have as many candidates as there are hashes.
        end = min(start + _CANDIDATES, int(ends[-1]))
        low, high = int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, end, "left")) + 1
        before = ends[low:high] - counts[low:high]
        part = np.minimum(ends[low:high], end) - np.maximum(before, start)
        row = np.repeat(np.arange(low, high), part)
        yield row, np.repeat(starts[low:high] - before, part) + np.arange(start, end)
