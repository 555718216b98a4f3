"""Progress: what is told, where, and that resumed work does not count as done now."""

import io

import pytest

from fusion import progress
from fusion.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_share_count_rate_and_time_left():
    work = Progress("ingest a/b", "rows", 1000, 500, io.StringIO())
    work.advance(2000, 750)
    assert work.line(10.0) == "ingest a/b: 75.0%, 2,000 rows, 200/s, 10 s left"
    assert work.line(1.0) == "ingest a/b: 75.0%, 2,000 rows, 2,000/s"
    assert Progress("count", "rows", None, 0, io.StringIO()).line(4.0) == "count: 0 rows, 0/s"


def test_short_work_says_nothing_and_long_work_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log = io.StringIO()
    with Progress("shard", "samples", 100, stream=log) as work:
        for _ in range(100):
            now[0] += 1.3
            work.advance(1)
    assert log.getvalue().splitlines() == [
        "shard: 47.0%, 47 samples, 0.77/s, 69 s left",
        "shard: 94.0%, 94 samples, 0.77/s, 8 s left",
    ]


def test_a_terminal_has_one_line_that_goes_away(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    terminal = Terminal()
    with Progress("shard", "samples", 4, stream=terminal) as work:
        for _ in range(4):
            now[0] += 1.0
            work.advance(1)
    assert "\n" not in terminal.getvalue()
    assert terminal.getvalue().endswith(" \r")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (89, "89 s"), (600, "10 min"), (3 * 3600 + 300, "3 h 05 min"), (100 * 3600, "4 d 4 h")],
)
def test_durations(seconds: float, said: str):
    assert duration(seconds) == said
