"""Numbers with their uncertainty: values made of ratios, resampled by cluster; paired differences; sample sizes.

Every number of the model zoo is a weighted sum of ratios of two sums over units: a share of right answers, an F1
(2 TP / (2 TP + FP + FN)), a sum of shares (MME), a relative score (a judge's points for us / for the reference). So
one bootstrap serves all of them: whole clusters (a picture, a pair) are drawn, the ratios are made anew.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, nan, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_DRAWS_AT_ONCE = 4_000_000
"""Numbers held at a time while clusters are drawn: 32 MB."""


@dataclass(frozen=True)
class Term:
    """`coefficient` x sum(top) / sum(bottom) over units; `clusters` names what each unit is drawn with. All [n]."""

    coefficient: float
    top: tuple[float, ...]
    bottom: tuple[float, ...]
    clusters: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises `ValueError` where the three differ in length."""
        if not len(self.top) == len(self.bottom) == len(self.clusters):
            raise ValueError("top, bottom and clusters must have the same length")


@dataclass(frozen=True)
class Value:
    """A number as the sum of its terms."""

    terms: tuple[Term, ...]

    @property
    def point(self) -> float:
        """The number itself; NaN where a term has nothing below its line."""
        total = 0.0
        for term in self.terms:
            bottom = sum(term.bottom)
            if bottom == 0:
                return nan
            total += term.coefficient * sum(term.top) / bottom
        return total

    @property
    def clusters(self) -> list[str]:
        """All clusters, sorted."""
        return sorted({name for term in self.terms for name in term.clusters})


@dataclass(frozen=True)
class Estimate:
    """A number with the bounds of its percentile interval and its standard error, on the number's own scale."""

    value: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Difference:
    """B minus A on the same questions. `p`: two-sided, from the paired bootstrap; `adjusted`: after Holm."""

    value: float
    low: float
    high: float
    error: float
    clusters: int
    p: float
    adjusted: float


def mean(pairs: Iterable[tuple[float, str]], coefficient: float = 1.0) -> Term:
    """The mean of (number, cluster) pairs as a term."""
    items = list(pairs)
    return Term(coefficient, tuple(v for v, _ in items), (1.0,) * len(items), tuple(c for _, c in items))


def ratio(parts: Iterable[tuple[float, float, str]], coefficient: float = 1.0) -> Term:
    """A ratio of two sums from (top, bottom, cluster) triples."""
    items = list(parts)
    return Term(coefficient, tuple(a for a, _, _ in items), tuple(b for _, b, _ in items), tuple(c for *_, c in items))


def resampled(values: Sequence[Value], samples: int, seed: int) -> Floats:
    """[len(values), samples]: each value over the same draws of clusters; NaN where a term lost all its units.

    All clusters of all values are drawn together, so that differences between the rows are paired.
    """
    names = sorted({name for value in values for name in value.clusters})
    position = {name: number for number, name in enumerate(names)}
    sums = [[(term.coefficient, *_per_cluster(term, position)) for term in value.terms] for value in values]
    rows = []
    for draws in _draws(len(names), samples, seed):
        block = np.zeros((len(values), len(draws)))
        for row, terms in enumerate(sums):
            for coefficient, top, bottom in terms:
                below = draws @ bottom
                above = draws @ top
                block[row] += coefficient * np.divide(above, below, out=np.full(len(draws), nan), where=below > 0)
        rows.append(block)
    return np.concatenate(rows, axis=1)


def _per_cluster(term: Term, position: dict[str, int]) -> tuple[Floats, Floats]:
    where = np.array([position[name] for name in term.clusters], dtype=np.int64)
    count = len(position)
    top, bottom = (np.array(side, dtype=np.float64) for side in (term.top, term.bottom))
    return np.bincount(where, top, count).astype(np.float64), np.bincount(where, bottom, count).astype(np.float64)


def _draws(clusters: int, samples: int, seed: int) -> Iterator[Floats]:
    generator = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // clusters)
    for start in range(0, samples, step):
        count = min(step, samples - start)
        yield generator.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=count).astype(np.float64)


def estimate(value: Value, samples: int, confidence: float, seed: int) -> Estimate:
    """A value with its interval. Raises `ValueError` for a value that is no number."""
    if value.point != value.point:
        raise ValueError("the value has no units: there is nothing to estimate")
    return Estimate(value.point, *_bounds(resampled([value], samples, seed)[0], confidence))


def _bounds(draws: Floats, confidence: float) -> tuple[float, float, float]:
    good = draws[~np.isnan(draws)]
    tail = 100.0 * (1.0 - confidence) / 2.0
    low, high = np.percentile(good, [tail, 100.0 - tail])
    return float(low), float(high), float(good.std(ddof=1)) if len(good) > 1 else 0.0


def difference(a: Value, b: Value, samples: int, confidence: float, seed: int) -> Difference:
    """B minus A, both over the same draws; `adjusted` is `p` until `holm` has seen all columns.

    `p` is twice the smaller share of resampled differences on one side of zero, counted with one more on each side, so
    that it is never below 2 / (samples + 1): a bootstrap cannot show less.
    """
    if a.clusters != b.clusters:
        raise ValueError("the two values are of different questions: nothing can be paired")
    both = resampled([a, b], samples, seed)
    draws = both[1] - both[0]
    draws = draws[~np.isnan(draws)]
    low, high, error = _bounds(draws, confidence)
    sides = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2.0 * (sides + 1) / (len(draws) + 1))
    return Difference(b.point - a.point, low, high, error, len(a.clusters), p, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for the number of comparisons: adjusted values in the given order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def clusters_needed(found: Difference, smallest: float, confidence: float, comparisons: int, power: float = 0.8) -> int:
    """Clusters that a benchmark would need so that a true difference of `smallest` is seen with probability `power`.

    The error of the difference shrinks with the root of their number; the level is divided by `comparisons`, which is
    Holm's first and hardest step.
    """
    if smallest <= 0:
        raise ValueError("the smallest difference must be above zero")
    normal = NormalDist()
    level = (1.0 - confidence) / comparisons
    reach = normal.inv_cdf(1.0 - level / 2.0) + normal.inv_cdf(power)
    spread = found.error * sqrt(found.clusters)
    return ceil((reach * spread / smallest) ** 2)
