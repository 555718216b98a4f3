"""The samples of one step in packs: one pack a rank and micro-batch, all of nearly the same number of tokens.

A pack is computed without padding, and ranks wait for each other after each pack (ZeRO-3) or after each step. So what
is wasted is what the largest pack has more than the others. Source: design "From source to batch", item 5.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fusion.data.stream.order import Rows

Flags = npt.NDArray[np.bool_]

EVEN = 1.02
"""Largest pack over the mean, from which on one picture more in a pack is the smaller evil."""
_TRIED = 4
_NEVER = np.iinfo(np.int64).max


def spread(lengths: Rows, pictures: Flags, ranks: int, micro_batch: int) -> list[list[Rows]]:
    """Spreads the samples of one step over ranks and micro-batches by their lengths.

    There are as many packs as it takes with `micro_batch` samples in each. One of short samples may hold more of them;
    no pack takes more tokens than `micro_batch` of the longest. Pictures cost time of their own in the tower: no pack
    has more of them than the fullest must have, and one more where tokens cannot be even otherwise.

    Args:
        lengths: int64 [n], tokens of each sample.
        pictures: bool [n], whether it has a picture.
        ranks: all of them get the same number of packs, of which some are empty in a step of few samples.
        micro_batch: see above.

    Returns:
        for each rank its packs, as positions into the step, the longest sample first. Packs that are computed at the
        same time are of neighbouring sizes, and a rank that has a large one now has a small one next.
    """
    rounds = max(1, -(-len(lengths) // (ranks * micro_batch)))
    pack_of = even_packs(lengths, pictures, ranks * rounds)
    by_length = np.lexsort((np.arange(len(lengths)), -lengths))
    packs = [by_length[pack_of[by_length] == pack] for pack in range(ranks * rounds)]
    packs.sort(key=lambda pack: -int(lengths[pack].sum()))
    deals = [packs[number * ranks : (number + 1) * ranks] for number in range(rounds)]
    return [[deal[-1 - rank if number % 2 else rank] for number, deal in enumerate(deals)] for rank in range(ranks)]


def even_packs(lengths: Rows, pictures: Flags, packs: int) -> Rows:
    """int64 [n]: the pack of each sample, such that the largest sum of lengths is small.

    Packs are dealt and improved by exchanges. Where the largest stays above `EVEN`, a few packs take a picture more
    than they must: they start with the shortest samples, or the largest pack's shortest sample goes to one of the
    smallest, and exchanges even out what that does; the best of a few such attempts counts if it is better. Ties go to
    the first everywhere: the result is the same on all ranks.
    """
    most = -(-int(pictures.sum()) // packs)
    best = _Packing.dealt(lengths, pictures, packs, most)
    best.exchange(most)
    if best.tokens.max() > EVEN * best.tokens.mean():
        for crowded in range(1, min(_TRIED, packs - 1) + 1):
            attempt = _Packing.dealt(lengths, pictures, packs, most, crowded)
            attempt.exchange(most + 1)
            best = min(best, attempt, key=lambda one: int(one.tokens.max()))
    while best.tokens.max() > EVEN * best.tokens.mean():
        attempts = [attempt for attempt in best.relieved(most + 1) if attempt.tokens.max() < best.tokens.max()]
        if not attempts:
            break
        best = min(attempts, key=lambda attempt: int(attempt.tokens.max()))
    return best.place[: len(lengths)]


@dataclass(frozen=True)
class _Packing:
    """Samples in packs. Behind the n samples stands a nothing of length 0 for each pack: to move is to swap with it."""

    length: Rows
    """[n + packs]"""
    picture: Rows
    """[n + packs]: 1 or 0."""
    place: Rows
    """[n + packs]: the pack of each."""
    tokens: Rows
    """[packs]"""
    held: Rows
    """[packs]: pictures."""

    @classmethod
    def dealt(cls, lengths: Rows, pictures: Flags, packs: int, most: int, crowded: int = 0) -> "_Packing":
        """The longest sample first, each to the pack with the fewest tokens; those without a picture last.

        Source: Graham, "Bounds on multiprocessing timing anomalies", 1969. With at most `most` pictures a pack; but the
        first `crowded` packs start with one more, of the shortest.
        """
        nothing = np.zeros(packs, dtype=np.int64)
        picture = np.concatenate([pictures.astype(np.int64), nothing])
        place = np.concatenate([np.zeros(len(lengths), dtype=np.int64), np.arange(packs)])
        self = cls(np.concatenate([lengths, nothing]), picture, place, nothing.copy(), nothing.copy())
        order = np.lexsort((np.arange(len(lengths)), -lengths, ~pictures))
        shown = int(pictures.sum())
        first = max(0, shown - crowded * (most + 1))
        for number, sample in enumerate(order[first:shown][::-1]):
            self._put(int(sample), number // (most + 1))
        for sample in np.delete(order, np.s_[first:shown]):
            open_for_it = self.held + picture[sample] <= most
            self._put(int(sample), int(np.argmin(np.where(open_for_it, self.tokens, _NEVER))))
        return self

    def _put(self, sample: int, pack: int) -> None:
        self.place[sample] = pack
        self.tokens[pack] += self.length[sample]
        self.held[pack] += self.picture[sample]

    def _take(self, sample: int) -> None:
        self.tokens[self.place[sample]] -= self.length[sample]
        self.held[self.place[sample]] -= self.picture[sample]

    def _samples(self, pack: int) -> Rows:
        return np.flatnonzero(self.place[: -len(self.tokens)] == pack)

    def exchange(self, most: int) -> None:
        """The largest pack swaps a sample with another pack, whatever helps most, as long as something helps."""
        while True:
            largest = int(np.argmax(self.tokens))
            own = self._samples(largest)
            given = self.length[own, None] - self.length
            shown = self.picture[own, None] - self.picture
            allowed = (self.held[self.place] + shown <= most) & (self.held[largest] - shown <= most)
            allowed &= self.place != largest
            larger = np.maximum(self.tokens[largest] - given, self.tokens[self.place] + given)
            larger = np.where(allowed, larger, _NEVER)
            if not larger.size or larger.min() >= self.tokens[largest]:
                return
            row, other = np.unravel_index(np.argmin(larger), larger.shape)
            sample, pack = int(own[row]), int(self.place[other])
            self._take(sample)
            self._take(int(other))
            self._put(sample, pack)
            # What came back for nothing is nothing, and each pack keeps its own.
            if other < len(self.place) - len(self.tokens):
                self._put(int(other), largest)

    def relieved(self, most: int) -> "list[_Packing]":
        """The largest pack without its shortest sample, which one of the smallest packs has taken."""
        largest = int(np.argmax(self.tokens))
        own = self._samples(largest)
        shortest = int(own[np.argmin(self.length[own])])
        found = []
        for pack in np.argsort(self.tokens, kind="stable")[:_TRIED]:
            if pack == largest or self.held[pack] + self.picture[shortest] > most:
                continue
            other = replace(self, place=self.place.copy(), tokens=self.tokens.copy(), held=self.held.copy())
            other._take(shortest)
            other._put(shortest, int(pack))
            other.exchange(most)
            found.append(other)
        return found
