"""The training order: a pure function of (manifest hash, seed, epoch).

Nothing but a step number has to be saved to resume exactly, and a step holds the same samples whatever the number of
ranks. An epoch reads the manifest in blocks of consecutive samples: the blocks are shuffled over the whole data set,
and the samples among the blocks of one window. So a shard is read in a few long stretches and not all over, while a
step still mixes samples of a thousand places. A data set that fits into one window is shuffled as a whole.
Source: design "From source to batch", item 5.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

BLOCK_SAMPLES = 64
"""Consecutive samples that are read near each other in time: some megabytes of a shard."""
WINDOW_BLOCKS = 1024
"""Blocks whose samples are mixed: what a cache of remote shards has to hold to fetch each block once an epoch."""
_ROUNDS = 6
_PIECE = 1 << 20


@dataclass(frozen=True)
class TrainingOrder:
    """Which manifest rows each optimiser step sees.

    A row whose `draws` is k stands k times in every epoch, far apart where the data set is large. Epochs follow one
    another without a gap: a step may hold the end of one epoch and the beginning of the next; the last step of all may
    be smaller than `global_batch`. A step takes memory and time of its own size alone; the order as a whole 4 bytes a
    draw.
    """

    manifest_sha256: str
    seed: int
    epochs: int
    global_batch: int
    draws: npt.NDArray[np.integer]
    """[rows]: how often a row is drawn in an epoch."""
    block: int = BLOCK_SAMPLES
    window: int = WINDOW_BLOCKS

    @cached_property
    def _drawn(self) -> npt.NDArray[np.uint32]:
        """[samples_per_epoch]: rows in the manifest's order, all first draws, then all second ones, and so on."""
        drawn = np.empty(int(self.draws.sum(dtype=np.int64)), dtype=np.uint32)
        filled = 0
        for earlier in range(int(self.draws.max(initial=0))):
            # By pieces: the positions that numpy finds take eight bytes each.
            for first in range(0, len(self.draws), _PIECE):
                found = np.flatnonzero(self.draws[first : first + _PIECE] > earlier)
                drawn[filled : filled + len(found)] = found + first
                filled += len(found)
        return drawn

    @cached_property
    def _bounds(self) -> Rows:
        """[windows + 1]: where the windows start in the shuffled sequence of whole blocks; all of about one size."""
        blocks = self.samples_per_epoch // self.block
        windows = max(1, round(blocks / self.window))
        return np.arange(windows + 1, dtype=np.int64) * blocks // windows

    @property
    def samples_per_epoch(self) -> int:
        """Number of draws in one epoch."""
        return len(self._drawn)

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
            rows[chosen] = self._drawn[self._shuffled(positions[chosen] - epoch * size, int(epoch))]
        return rows

    def epoch_of(self, index: int) -> float:
        """Epochs that are complete after step `index`, as a fraction."""
        done = min((index + 1) * self.global_batch, self.samples_per_epoch * self.epochs)
        return done / self.samples_per_epoch

    def _shuffled(self, positions: Rows, epoch: int) -> Rows:
        """Draws at these positions of an epoch."""
        starts = self._bounds * self.block
        starts[-1] = self.samples_per_epoch
        draws = np.empty_like(positions)
        windows = np.searchsorted(starts[1:], positions, side="right")
        for window in np.unique(windows):
            chosen = windows == window
            size = int(starts[window + 1] - starts[window])
            places = permute(positions[chosen] - starts[window], size, self._key(epoch, int(window)))
            blocks, insides = np.divmod(places, self.block)
            draws[chosen] = self._blocks(epoch, int(window))[blocks] * self.block + insides
        return draws

    def _blocks(self, epoch: int, window: int) -> Rows:
        """The blocks of a window, ascending; what is left of the epoch behind its last whole block ends the last."""
        blocks, bounds = int(self._bounds[-1]), self._bounds[window : window + 2]
        chosen = np.sort(permute(np.arange(*bounds, dtype=np.int64), blocks, self._key(epoch, "blocks")))
        return np.append(chosen, blocks) if bounds[1] == blocks else chosen

    def _key(self, epoch: int, part: int | str) -> bytes:
        # The first window has the epoch's own key: the order of a set of one window is the plain permutation of it.
        name = f"{self.manifest_sha256}:{self.seed}:{epoch}" + (f":{part}" if part else "")
        return hashlib.sha256(name.encode()).digest()


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
