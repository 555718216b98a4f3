"""Bootstrap of ratios, paired differences, Holm, sample sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.evaluate.score import ClusterBootstrap
from fusion.evaluate.statistics import Value, clusters_needed, difference, estimate, holm, mean, ratio, resampled


def share(scores: list[float], clusters: list[str] | None = None) -> Value:
    names = clusters or [str(number) for number in range(len(scores))]
    return Value((mean(zip(scores, names, strict=True), 100.0),))


def test_a_value_is_a_weighted_sum_of_ratios() -> None:
    value = Value((mean([(1.0, "a"), (0.0, "b")], 50.0), ratio([(2.0, 3.0, "a"), (0.0, 1.0, "b")], 50.0)))
    assert value.point == 50.0 * 0.5 + 50.0 * 2.0 / 4.0 and value.clusters == ["a", "b"]
    assert Value((ratio([(0.0, 0.0, "a")]),)).point != Value((ratio([(0.0, 0.0, "a")]),)).point, "no number"
    with pytest.raises(ValueError, match="nothing to estimate"):
        estimate(Value((mean([]),)), 10, 0.95, 0)


def test_the_interval_is_that_of_the_scores_of_embedded_benchmarks() -> None:
    generator = np.random.default_rng(3)
    scores = generator.integers(0, 2, 300).astype(float)
    clusters = [f"p{number // 3:03d}" for number in range(300)]
    theirs = ClusterBootstrap(clusters, 2000, 0.95, 7).interval(scores, np.ones(300, dtype=bool))
    ours = estimate(share(list(scores), clusters), 2000, 0.95, 7)
    assert ours.value == pytest.approx(100 * theirs.mean)
    assert (ours.low, ours.high) == pytest.approx((100 * theirs.low, 100 * theirs.high))


def test_the_interval_of_a_share_is_as_wide_as_theory_says() -> None:
    found = estimate(share([1.0, 0.0] * 500), 4000, 0.95, 1)
    assert found.error == pytest.approx(100 * 0.5 / 1000**0.5, rel=0.05)
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.error, rel=0.05)


def test_drawing_in_pieces_needs_no_memory_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [share([1.0, 0.0, 1.0, 1.0])]
    whole = resampled(values, 500, 3)
    monkeypatch.setattr("fusion.evaluate.statistics._DRAWS_AT_ONCE", 40)
    assert np.array_equal(resampled(values, 500, 3), whole)


def test_a_paired_difference_knows_what_the_two_share() -> None:
    base = [float(number % 2) for number in range(400)]
    better = [1.0 if number % 10 == 0 else score for number, score in enumerate(base)]
    found = difference(share(base), share(better), 2000, 0.95, 0)
    assert found.value == 10.0 and found.low > 0 and found.p < 0.01 and found.clusters == 400
    alone = estimate(share(better), 2000, 0.95, 0)
    assert found.error < alone.error, "most of the questions are the same for both"
    same = difference(share(base), share(base), 2000, 0.95, 0)
    assert (same.value, same.p) == (0.0, 1.0)


def test_values_of_other_questions_are_not_paired() -> None:
    with pytest.raises(ValueError, match="different questions"):
        difference(share([1.0], ["a"]), share([1.0], ["b"]), 10, 0.95, 0)


def test_chance_is_seldom_called_a_difference() -> None:
    generator = np.random.default_rng(0)
    called = 0
    for number in range(100):
        a, b = (list(generator.integers(0, 2, 150).astype(float)) for _ in range(2))
        called += difference(share(a), share(b), 300, 0.95, number).p <= 0.05
    assert called <= 14, "5 of 100 are expected, 14 once in three thousand"


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    assert holm([0.5]) == [0.5] and holm([]) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_holm_only_makes_larger_and_keeps_the_order(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(value <= corrected <= 1.0 for value, corrected in zip(values, adjusted, strict=True))
    ranks = sorted(range(len(values)), key=lambda index: values[index])
    assert [adjusted[index] for index in ranks] == sorted(adjusted)


def test_sample_size_by_hand() -> None:
    # Differences of -1, 0 and 1 in points of a hundred, with a spread of 50 a question.
    a = [0.0] * 400
    b = [1.0 if number % 2 else 0.0 for number in range(400)]
    found = difference(share(a), share(b), 4000, 0.95, 0)
    needed = clusters_needed(found, 5.0, 0.95, 1)
    assert needed == pytest.approx(((1.96 + 0.8416) * 50.0 / 5.0) ** 2, rel=0.06)
    assert clusters_needed(found, 5.0, 0.95, 23) > needed > clusters_needed(found, 10.0, 0.95, 1)
    with pytest.raises(ValueError, match="above zero"):
        clusters_needed(found, 0.0, 0.95, 1)
