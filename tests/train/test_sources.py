"""Losses by source: exact sums, the same whatever the ranks and wherever a stage was interrupted."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.train.sources import SourceLosses, SourceSums

SOURCES = [("web", "captions"), ("scans", "OCR"), ("talk", "language"), ("photos", "captions")]
STEP = st.lists(
    st.tuples(st.floats(0, 50), st.integers(0, 40), st.integers(0, 5)), min_size=len(SOURCES), max_size=len(SOURCES)
)


def sums(rows: list[tuple[float, int, int]]) -> SourceSums:
    loss, tokens, samples = zip(*rows, strict=True)
    return SourceSums(np.array(loss), np.array(tokens, np.int64), np.array(samples, np.int64))


def whole(steps: list[list[tuple[float, int, int]]]) -> SourceLosses:
    made = SourceLosses(SOURCES, len(steps))
    for number, rows in enumerate(steps, 1):
        made.add(number, sums(rows))
    return made


@given(steps=st.lists(STEP, min_size=1, max_size=230))
@settings(deadline=None, max_examples=30)
def test_means_are_over_tokens_and_no_stretch_is_lost(steps: list[list[tuple[float, int, int]]]) -> None:
    made = whole(steps)
    facts = made.summary()["by_source"]
    for number, (name, _) in enumerate(SOURCES):
        loss = sum(rows[number][0] for rows in steps)
        tokens = sum(rows[number][1] for rows in steps)
        assert facts[name]["tokens"] == tokens
        assert facts[name]["samples"] == sum(rows[number][2] for rows in steps)
        assert facts[name]["loss"] == (pytest.approx(loss / tokens, rel=1e-5) if tokens else None)
    captions = made.summary()["by_category"]["captions"]
    assert captions["tokens"] == facts["web"]["tokens"] + facts["photos"]["tokens"]


@given(steps=st.lists(STEP, min_size=2, max_size=230), data=st.data())
@settings(deadline=None, max_examples=30)
def test_interrupted_anywhere_the_table_is_the_same_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[tuple[float, int, int]]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("state")
    made = SourceLosses(SOURCES, len(steps))
    cut = data.draw(st.integers(1, len(steps) - 1))
    for number, rows in enumerate(steps, 1):
        made.add(number, sums(rows))
        if number == cut:
            made.save(folder)
            made = SourceLosses.load(folder)
    made.write_curve(folder / "interrupted.csv")
    undisturbed = whole(steps)
    undisturbed.write_curve(folder / "undisturbed.csv")
    assert (folder / "interrupted.csv").read_bytes() == (folder / "undisturbed.csv").read_bytes()
    assert made.summary() == undisturbed.summary()


def test_the_curve_has_about_a_hundred_points_and_ends_with_the_last_step(tmp_path: Path) -> None:
    steps = [[(2.0 + number, 2, 1), (4.0, 4, 1), (0.0, 0, 0), (3.0, 1, 1)] for number in range(250)]
    made = whole(steps)
    made.write_curve(tmp_path / "curve.csv")
    with (tmp_path / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = sorted({int(row["step"]) for row in rows})
    assert points[:2] == [3, 6] and points[-1] == 250 and len(points) == 84
    assert [row["source"] for row in rows[:3]] == ["scans", "photos", "web"], "by category, then by name"
    assert float(rows[2]["loss"]) == pytest.approx((2.0 + 3.0 + 4.0) / 6)
    assert not any(row["source"] == "talk" for row in rows), "a source without samples has no points"
    assert sum(int(row["tokens"]) for row in rows) == 250 * 7


def test_the_table_for_a_person_has_a_line_a_category_and_one_a_source() -> None:
    lines = whole([[(2.0, 2, 1), (4.0, 4, 1), (0.0, 0, 1), (30.0, 10, 2)]] * 20).table().splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["OCR", "scans", "captions", "photos", "web", "language", "talk"]
    assert lines[3].split() == ["captions", "60", "240", "2.667", "2.667"]
    assert lines[-1].split()[-2:] == ["-", "-"], "samples without a supervised token have no loss"
    assert len({len(line) for line in lines}) == 1
