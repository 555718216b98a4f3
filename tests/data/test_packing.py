"""Packs of a step: every sample in exactly one, all of nearly the same number of tokens, on any number of ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import packing as bench
from fusion.data.stream.packing import spread

SAMPLES = st.lists(st.tuples(st.integers(1, 4000), st.booleans()), min_size=1, max_size=150)


@given(samples=SAMPLES, ranks=st.integers(1, 9), micro_batch=st.integers(1, 8))
def test_every_sample_is_in_one_pack(samples: list[tuple[int, bool]], ranks: int, micro_batch: int) -> None:
    lengths, pictures = (np.array(column) for column in zip(*samples, strict=True))
    parts = spread(lengths, pictures, ranks, micro_batch)
    packs = [pack for part in parts for pack in part]
    assert len(parts) == ranks
    assert {len(part) for part in parts} == {-(-len(samples) // (ranks * micro_batch))}
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(samples)))
    assert all((np.diff(lengths[pack]) <= 0).all() for pack in packs)


@given(samples=SAMPLES, ranks=st.integers(1, 9), micro_batch=st.integers(1, 8))
def test_no_pack_takes_more_than_its_memory(samples: list[tuple[int, bool]], ranks: int, micro_batch: int) -> None:
    """`micro_batch` of the longest samples, and one picture more than the fullest pack must have."""
    lengths, pictures = (np.array(column) for column in zip(*samples, strict=True))
    parts = spread(lengths, pictures, ranks, micro_batch)
    packs = [pack for part in parts for pack in part]
    assert max(lengths[pack].sum() for pack in packs) <= micro_batch * lengths.max()
    assert max(pictures[pack].sum() for pack in packs) <= 1 - (-pictures.sum() // len(packs))


def test_packs_of_a_small_step_are_the_best_there_are() -> None:
    lengths = np.array([9, 8, 7, 6, 5, 4, 3, 2])
    sums = [int(lengths[pack].sum()) for part in spread(lengths, np.ones(8, dtype=bool), 4, 2) for pack in part]
    assert sums == [11, 11, 11, 11]


@pytest.mark.parametrize("ranks", [1, 2, 8, 32])
def test_stage_one_and_a_half_is_spread_evenly(ranks: int) -> None:
    """The published batch of 128 and four samples a micro-batch; q is drawn for each step."""
    row = bench.measure(bench.samples("fusion-5m-stage1_5", 128 * 60, 0), 128, ranks, 4, 60)
    assert row["largest_rank_over_mean"] <= 1.01
    assert row["real_share"] >= 0.98
    assert row["steps_within_5_percent"] >= 0.95
