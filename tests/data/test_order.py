"""The training order: every sample exactly as often as it is drawn, the same for any number of ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.data.stream.order import TrainingOrder, permute, spread


@given(size=st.integers(1, 3000), key=st.binary(min_size=1, max_size=8))
def test_permutation_is_a_bijection(size: int, key: bytes) -> None:
    assert sorted(permute(np.arange(size), size, key)) == list(range(size))


def test_permutation_evaluates_single_positions_of_a_large_range() -> None:
    some = permute(np.array([0, 1, 9_999_999]), 10_000_000, b"key")
    assert len(set(some)) == 3
    assert (some >= 0).all() and (some < 10_000_000).all()
    assert (permute(np.array([1]), 10_000_000, b"key") == some[1]).all()


@given(
    draws=st.lists(st.integers(0, 3), min_size=1, max_size=60).filter(lambda values: sum(values) > 0),
    epochs=st.integers(1, 3),
    global_batch=st.integers(1, 17),
)
def test_every_draw_is_seen_once_per_epoch(draws: list[int], epochs: int, global_batch: int) -> None:
    order = TrainingOrder("m", 7, epochs, global_batch, np.array(draws, dtype=np.int64))
    seen = np.concatenate([order.step(index) for index in range(order.steps)])
    for epoch in range(epochs):
        part = seen[epoch * order.samples_per_epoch : (epoch + 1) * order.samples_per_epoch]
        assert np.bincount(part, minlength=len(draws)).tolist() == draws
    assert order.epoch_of(order.steps - 1) == epochs


def test_order_depends_on_manifest_seed_and_epoch() -> None:
    draws = np.ones(100, dtype=np.int64)
    first = TrainingOrder("a", 1, 2, 100, draws)
    assert (first.step(0) == TrainingOrder("a", 1, 2, 100, draws).step(0)).all()
    assert (first.step(0) != first.step(1)).any()
    assert (first.step(0) != TrainingOrder("b", 1, 2, 100, draws).step(0)).any()
    assert (first.step(0) != TrainingOrder("a", 2, 2, 100, draws).step(0)).any()


def test_step_outside_the_stage_is_an_error() -> None:
    with pytest.raises(IndexError, match="of a stage of 1 steps"):
        TrainingOrder("a", 1, 1, 4, np.ones(4, dtype=np.int64)).step(1)


@given(
    lengths=st.lists(st.integers(1, 4000), min_size=1, max_size=150),
    ranks=st.integers(1, 9),
    micro_batch=st.integers(1, 8),
)
def test_spread_keeps_every_sample_and_even_ranks(lengths: list[int], ranks: int, micro_batch: int) -> None:
    parts = spread(np.array(lengths, dtype=np.int64), ranks, micro_batch)
    assert len(parts) == ranks
    assert len({len(part) for part in parts}) == 1
    assert all(len(batch) <= micro_batch for part in parts for batch in part)
    counts = [sum(len(batch) for batch in part) for part in parts]
    assert max(counts) - min(counts) <= 1
    assert sorted(int(i) for part in parts for batch in part for i in batch) == list(range(len(lengths)))


def test_spread_balances_tokens() -> None:
    lengths = np.random.default_rng(0).integers(800, 4000, 128)
    sums = [sum(int(lengths[batch].sum()) for batch in part) for part in spread(lengths, 8, 4)]
    assert max(sums) <= 1.05 * np.mean(sums)
