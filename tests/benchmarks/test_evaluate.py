"""Batches give the answers of one at a time, and a kill costs a batch; the benchmark has 10,000 questions."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evaluate import killed, random_checkpoint, throughput


def test_batches_give_the_same_answers(tmp_path: Path) -> None:
    result = throughput(random_checkpoint(tmp_path), questions=96, alone=12, batch_size=32)
    assert result["different_answers"] == 0 and result["one_at_a_time_questions"] == 12


@pytest.mark.long
def test_kills_cost_a_batch_each(tmp_path: Path) -> None:
    result = killed(random_checkpoint(tmp_path), tmp_path, questions=512, kills=2, batch_size=16)
    assert result["kills"] == 2 and result["same_answers"]
    assert result["asked_again_because_their_batch_was_cut"] <= result["at_most"]
