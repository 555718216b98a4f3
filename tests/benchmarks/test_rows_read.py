"""The record of rows that were read: a row read twice, or not at all, is seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.rows_read import check_epochs, rows_read

SOUND = {1: [0, 3, 4], 2: [0, 1, 2], 3: [1, 2, 4], 4: [3]}
"""Two epochs of five samples, three a step."""


def test_each_row_once_an_epoch_is_sound() -> None:
    check_epochs(SOUND, samples=5, epochs=2)


@pytest.mark.parametrize(
    ("step", "rows"),
    [
        (1, [0, 3, 3]),  # twice in a step
        (2, [1, 2, 3]),  # a second time, in place of the first row of the next epoch
        (2, [0, 0, 2]),  # the epoch ends without row 1
        (3, [1, 2, 5]),  # no row of the manifest
        (4, [0]),
        (4, []),
    ],
)
def test_a_row_read_twice_or_never_is_seen(step: int, rows: list[int]) -> None:
    with pytest.raises(RuntimeError):
        check_epochs({**SOUND, step: rows}, samples=5, epochs=2)


def test_a_missing_step_is_seen() -> None:
    with pytest.raises(RuntimeError, match="steps are missing"):
        check_epochs({1: [0, 1], 3: [2, 3]}, samples=4, epochs=1)


def test_the_last_word_of_each_rank_counts(tmp_path: Path) -> None:
    written = {0: [(1, [4, 0]), (2, [9]), (2, [1])], 1: [(1, [3]), (2, [2, 0])]}
    for rank, lines in written.items():
        text = "".join(json.dumps({"step": step, "rows": rows}) + "\n" for step, rows in lines)
        (tmp_path / f"stage1-rows-{rank}.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "stage1_5-rows-0.jsonl").write_text('{"step": 1, "rows": [7]}\n', encoding="utf-8")
    assert rows_read(tmp_path, "stage1") == {1: [0, 3, 4], 2: [0, 1, 2]}
