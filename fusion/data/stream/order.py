"""The training order: a pure function of (manifest hash, seed, epoch).

Nothing but a step number has to be saved to resume exactly. A step holds the same samples whatever the number of ranks;
inside a step the samples are spread over the ranks by their lengths. Source: design "From source to batch", item 5.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

_ROUNDS = 6


@dataclass(frozen=True)
class TrainingOrder:
    """Which manifest rows each optimiser step sees.

    A row whose `draws` is k stands k times in every epoch. Epochs follow one another without a gap: a step may hold the
    end of one epoch and the beginning of the next; the last step of all may be smaller than `global_batch`.
    """

    manifest_sha256: str
    seed: int
    epochs: int
    global_batch: int
    draws: Rows
    """[rows] int64: how often a row is drawn in an epoch."""

    @cached_property
    def _ends(self) -> Rows:
        return np.cumsum(self.draws, dtype=np.int64)

    @property
    def samples_per_epoch(self) -> int:
        """Number of draws in one epoch."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def steps(self) -> int:
        """Number of optimiser steps of the whole stage."""
        return -(-self.samples_per_epoch * self.epochs // self.global_batch)

    def step(self, index: int) -> Rows:
        """Manifest rows of step `index` (0-based): [<= global_batch] int64. Raises IndexError outside the stage."""
        if not 0 <= index < self.steps:
            raise IndexError(f"step {index} of a stage of {self.steps} steps")
        size = self.samples_per_epoch
        first = index * self.global_batch
        positions = np.arange(first, min(first + self.global_batch, size * self.epochs), dtype=np.int64)
        rows = np.empty_like(positions)
        for epoch in np.unique(positions // size):
            chosen = positions // size == epoch
            draws = permute(positions[chosen] - epoch * size, size, self._key(int(epoch)))
            rows[chosen] = np.searchsorted(self._ends, draws, side="right")
        return rows

    def epoch_of(self, index: int) -> float:
        """Epochs that are complete after step `index`, as a fraction."""
        done = min((index + 1) * self.global_batch, self.samples_per_epoch * self.epochs)
        return done / self.samples_per_epoch

    def _key(self, epoch: int) -> bytes:
        return hashlib.sha256(f"{self.manifest_sha256}:{self.seed}:{epoch}".encode()).digest()


def permute(positions: Rows, size: int, key: bytes) -> Rows:
    """A pseudo-random permutation of range(size), evaluated at `positions` only, in O(len(positions)) memory.

    A Feistel network over the smallest square domain that holds `size`; positions that leave the range walk on along
    their cycle until they are back inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = [
        np.uint64(int.from_bytes(hashlib.sha256(key + bytes([number])).digest()[:8], "little"))
        for number in range(_ROUNDS)
    ]
    result = _feistel(positions.astype(np.uint64), half, mask, keys)
    outside = np.flatnonzero(result >= size)
    while len(outside):
        result[outside] = _feistel(result[outside], half, mask, keys)
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def _feistel(
    values: npt.NDArray[np.uint64], half: int, mask: np.uint64, keys: list[np.uint64]
) -> npt.NDArray[np.uint64]:
    shift = np.uint64(half)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64: every input bit changes every output bit with probability about one half."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def spread(lengths: Rows, ranks: int, micro_batch: int) -> list[list[Rows]]:
    """Spreads the samples of one step over ranks and micro-batches by their lengths.

    `lengths` [n] are token counts. Returns, for each rank, its micro-batches as positions into the step; every rank has
    the same number of micro-batches (some may be empty), at most `micro_batch` samples each, of similar lengths, and
    ranks differ by at most one sample: the sorted samples are dealt to and fro, so that the token sums stay close.
    """
    by_length = np.lexsort((np.arange(len(lengths)), -lengths))
    rounds = -(-len(lengths) // ranks)
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for number in range(rounds):
        hand = by_length[number * ranks : (number + 1) * ranks]
        order = range(ranks) if number % 2 == 0 else range(ranks - 1, -1, -1)
        for rank, position in zip(order, hand, strict=False):
            dealt[rank].append(int(position))
    micro_batches = max(1, -(-rounds // micro_batch))
    return [
        [
            np.array(hand[number * micro_batch : (number + 1) * micro_batch], dtype=np.int64)
            for number in range(micro_batches)
        ]
        for hand in dealt
    ]
