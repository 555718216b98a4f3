"""Scores: what counts as right, and intervals that know that questions about one picture go together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.evaluate.score import ClusterBootstrap, is_correct, normalize


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("Blue", "blue", True),
        ("the circle.", "circle", True),
        (" yes\n", "yes", True),
        ("yes, it is", "yes", False),
        ("", "no", False),
        ("a", "a", True),
        ("2", "two", False),
    ],
)
def test_what_counts_as_right(prediction: str, answer: str, right: bool) -> None:
    assert is_correct(prediction, answer) is right


@given(st.text())
def test_normalizing_twice_changes_nothing_but_further_articles(text: str) -> None:
    words = normalize(text).split()
    assert " ".join(words) == normalize(text)


def test_interval_of_equal_clusters_is_the_point() -> None:
    bootstrap = ClusterBootstrap(["a", "a", "b", "b"], 200, 0.95, 0)
    interval = bootstrap.interval(np.array([1.0, 0.0, 1.0, 0.0]), np.ones(4, dtype=bool))
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_clusters_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(0).integers(0, 2, 50), 20).astype(float)
    everything = np.ones(len(values), dtype=bool)
    alone = ClusterBootstrap([str(i) for i in range(1000)], 500, 0.95, 0).interval(values, everything)
    together = ClusterBootstrap([str(i // 20) for i in range(1000)], 500, 0.95, 0).interval(values, everything)
    assert together.high - together.low > 3 * (alone.high - alone.low)
    # Standard error of a mean of 50 fair coins is 0.07: the 95% interval is about 0.28 wide.
    assert 0.2 < together.high - together.low < 0.36


def test_group_interval_uses_only_its_questions() -> None:
    bootstrap = ClusterBootstrap(["a", "b", "c", "d"], 300, 0.9, 1)
    chosen = np.array([True, True, False, False])
    interval = bootstrap.interval(np.array([1.0, 1.0, 0.0, 0.0]), chosen)
    assert (interval.mean, interval.low, interval.high) == (1.0, 1.0, 1.0)
