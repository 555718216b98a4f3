"""The training order: every sample exactly as often as it is drawn, the same for any number of ranks."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.data.stream.order import BLOCK_SAMPLES, WINDOW_BLOCKS, TrainingOrder, permute


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
    draws=st.lists(st.integers(0, 3), min_size=1, max_size=200).filter(lambda values: sum(values) > 0),
    block=st.integers(1, 7),
    window=st.integers(1, 5),
)
def test_blocks_and_windows_lose_and_repeat_nothing(draws: list[int], block: int, window: int) -> None:
    order = TrainingOrder("m", 7, 2, 11, np.array(draws, dtype=np.int64), block, window)
    seen = np.concatenate([order.step(index) for index in range(order.steps)])
    for epoch in range(2):
        part = seen[epoch * order.samples_per_epoch : (epoch + 1) * order.samples_per_epoch]
        assert np.bincount(part, minlength=len(draws)).tolist() == draws


def test_a_large_set_is_read_block_by_block_and_mixed_well() -> None:
    """In any stretch of one window few blocks are open, and a step holds samples from all over the set."""
    rows = 10_000_000
    order = TrainingOrder("m", 1, 1, 128, np.ones(rows, dtype=np.int8))
    steps = WINDOW_BLOCKS * BLOCK_SAMPLES // 128
    first = np.concatenate([order.step(index) for index in range(steps - 20)])
    assert len(np.unique(first // BLOCK_SAMPLES)) <= 1.2 * WINDOW_BLOCKS
    middle = order.step(order.steps // 2)
    assert len(np.unique(middle // BLOCK_SAMPLES)) > 100
    assert np.bincount(middle * 8 // rows, minlength=8).min() >= 5
    assert (np.diff(middle) < 0).mean() > 0.4, "not in the order of the disk inside a step"


def test_repeated_draws_of_a_large_set_are_far_apart() -> None:
    order = TrainingOrder("m", 1, 1, 1000, np.full(20_000, 3, dtype=np.int64), block=10, window=100)
    seen = np.concatenate([order.step(index) for index in range(order.steps)])
    places = np.argsort(seen, kind="stable").reshape(-1, 3)
    assert np.median(np.diff(places, axis=1)) > 3 * 10 * 100


def test_a_set_of_one_window_is_permuted_as_a_whole() -> None:
    order = TrainingOrder("m", 3, 1, 1000, np.ones(1000, dtype=np.int64))
    key = hashlib.sha256(b"m:3:0").digest()
    assert (order.step(0) == permute(np.arange(1000), 1000, key)).all()
