"""The stages of the data survive a few kills at a small size; the benchmark does the same a hundred times and more."""

from __future__ import annotations

from pathlib import Path

from benchmarks.chaos_data import run, sound


def test_four_kills_change_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, kills=4, samples=60, seed=3, sources=1, a_round=1)
    assert result["total"]["kills"] >= 4
    assert sound(result), result
