"""Right or wrong, and how sure: accuracies with bootstrap intervals clustered by picture.

Questions about one picture are not independent, so whole pictures are drawn. Source: design "Evaluation".
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
_PUNCTUATION = re.compile(r"[^\w\s]")


def normalize(answer: str) -> str:
    """An answer in the form that is compared: lower case, no punctuation, no article in front, single spaces."""
    words = _PUNCTUATION.sub(" ", answer.lower()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def is_correct(prediction: str, answer: str) -> bool:
    """Exact match after `normalize`."""
    return normalize(prediction) == normalize(answer)


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its interval; shares of 1."""

    mean: float
    low: float
    high: float


class ClusterBootstrap:
    """Resamples pictures with replacement; the same draws for every system, so that differences are paired."""

    def __init__(self, clusters: Sequence[str], samples: int, confidence: float, seed: int) -> None:
        """`clusters` [n]: the picture of each question; `samples` resamples; `confidence` such as 0.95."""
        _, self._cluster = np.unique(np.array(clusters), return_inverse=True)
        self._count = int(self._cluster.max()) + 1
        draws = np.random.default_rng(seed).multinomial(
            self._count, np.full(self._count, 1.0 / self._count), size=samples
        )
        self._draws = draws.astype(np.float64)
        self._tail = 100.0 * (1.0 - confidence) / 2.0

    def interval(self, values: npt.NDArray[np.float64], chosen: Bools) -> Interval:
        """Mean of `values` [n] (1, 0 or a difference of those) over the `chosen` questions, with percentile bounds."""
        sums = np.bincount(self._cluster, weights=values * chosen, minlength=self._count)
        counts = np.bincount(self._cluster, weights=chosen.astype(np.float64), minlength=self._count)
        resampled_counts = self._draws @ counts
        means = (self._draws @ sums)[resampled_counts > 0] / resampled_counts[resampled_counts > 0]
        low, high = np.percentile(means, [self._tail, 100.0 - self._tail])
        return Interval(float(values[chosen].mean()), float(low), float(high))
