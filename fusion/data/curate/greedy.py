"""Of pictures in their order, those that stay: what is near an earlier one that stays goes.

A cluster has as many near pairs as the square of its size. Where there are more than are held, the first half is
decided by itself, what is near a picture that stays there leaves the second half, and the rest of that is decided by
itself. Of a cluster next to nothing is left after its first part: memory is bounded, time nearly linear. Decisions and
evidence do not depend on where pictures were cut.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fusion.data.curate.hamming import Hashes, Pairs, near_batches, near_pairs_within

GRID = 48
"""Bytes of a picture's colours (see fusion/data/store/pixels.py)."""
Grids = npt.NDArray[np.uint8]
"""[n, GRID]: colours of pictures."""
_Numbers = npt.NDArray[np.int64]
_FAR = np.iinfo(np.int64).max
_COMPARED = 200_000
"""Pairs whose colours are compared at a time."""


class Greedy:
    """Decides pictures by hash (near = within the later picture's limit) and colours (within one limit for all)."""

    def __init__(self, hashes: Hashes, limits: _Numbers, colours: Grids, most_difference: float, most: int) -> None:
        """`hashes`, `limits` (bits) and `colours` of each picture, in order; `most` pairs are held at a time."""
        self._hashes = np.ascontiguousarray(hashes)
        self._words = self._hashes.view(np.uint64).reshape(-1, 4)
        self._limits = limits
        self._colours = colours
        self._most_difference = most_difference
        self._most = most
        # Bits times the number of pictures, plus the place, of the nearest (of several, the first) that stays: one
        # number that is smaller for a better one.
        self._nearest: _Numbers = np.full(len(hashes), _FAR)

    def dropped(self) -> tuple[_Numbers, _Numbers, _Numbers]:
        """Of each picture that goes: its place, the bits to the nearest earlier one that stays, and whose they are."""
        places = np.flatnonzero(self._nearest != _FAR)
        bits, others = np.divmod(self._nearest[places], max(len(self._hashes), 1))
        return places, bits, others

    def decide(self, places: _Numbers, pairs: Pairs | None) -> None:
        """Decides the pictures at `places`, sorted; `pairs` = their near pairs, by positions in it; None: too many."""
        if pairs is not None:
            self._settle(*self._close(places[pairs[:, 0]], places[pairs[:, 1]]))
            return
        first, second = np.split(places, [len(places) // 2])
        self.decide(first, self._pairs(first))
        self._compare(self._staying(first), second)
        left = self._staying(second)
        gone = second[self._nearest[second] != _FAR]
        self.decide(left, self._pairs(left))
        # What a picture of the first half has driven out may be nearer to one of the second.
        self._compare(self._staying(left), gone)

    def _pairs(self, places: _Numbers) -> Pairs | None:
        return near_pairs_within(self._hashes[places], int(self._limits[places].max(initial=0)), self._most)

    def _staying(self, places: _Numbers) -> _Numbers:
        return places[self._nearest[places] == _FAR]

    def _settle(self, earlier: _Numbers, later: _Numbers, bits: _Numbers) -> None:
        """Decides by all close pairs, sorted: when a picture's turn comes, all before it have had theirs."""
        starts = np.flatnonzero(np.diff(earlier, prepend=-1))
        values = bits * len(self._hashes) + earlier
        for start, end in pairwise([*starts.tolist(), len(earlier)]):
            if self._nearest[earlier[start]] == _FAR:
                others = later[start:end]
                self._nearest[others] = np.minimum(self._nearest[others], values[start:end])

    def _compare(self, staying: _Numbers, others: _Numbers) -> None:
        """Lets those of `others` go that are close to an earlier one of `staying`, or finds them a nearer one."""
        # A limit of its own for each: bands that are right for the largest find too much for the others.
        for limit in np.unique(self._limits[others]).tolist():
            mine = others[self._limits[others] == limit]
            for pairs in near_batches(self._hashes[staying], self._hashes[mine], limit):
                earlier, later, bits = self._close(staying[pairs[:, 0]], mine[pairs[:, 1]])
                np.minimum.at(self._nearest, later, bits * len(self._hashes) + earlier)

    def _close(self, earlier: _Numbers, later: _Numbers) -> tuple[_Numbers, _Numbers, _Numbers]:
        """The pairs that are close indeed, in their order, and their bits."""
        parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))]
        for start in range(0, len(earlier), _COMPARED):
            one, other = earlier[start : start + _COMPARED], later[start : start + _COMPARED]
            bits = np.bitwise_count(self._words[one] ^ self._words[other]).sum(axis=1, dtype=np.int64)
            near = np.flatnonzero((one < other) & (bits <= self._limits[other]))
            one, other, bits = one[near], other[near], bits[near]
            apart = np.abs(self._colours[one].astype(np.int16) - self._colours[other]).sum(axis=1, dtype=np.int64)
            alike = apart <= self._most_difference * GRID
            parts.append((one[alike], other[alike], bits[alike]))
        first, second, differing = (np.concatenate(column) for column in zip(*parts, strict=True))
        return first, second, differing
