"""How far a long piece of work is, on stderr: share, count, rate and the time left.

In a terminal one line is drawn over and over; elsewhere a line is written now and then, none for short work.
"""

from __future__ import annotations

import sys
import time
from typing import Self, TextIO

_TERMINAL_SECONDS = 0.5
_LOG_SECONDS = 60.0
_SETTLED_SECONDS = 3.0
"""No time left is told before: a rate over less than this says little."""


class Progress:
    """A context manager. Only what was done since it was made counts for the rate, so that resumed work is told right.

    `note` is what else is told, after the time left.

    Args:
        label: what is being worked on, for example `ingest tiny-stage1/scenes`.
        unit: what is counted, in the plural.
        total: the amount of work, in whatever `advance` is given as `done`; None where nobody knows.
        done: how much of it was there before.
        stream: where to write; stderr by default.
    """

    def __init__(
        self, label: str, unit: str, total: float | None, done: float = 0, stream: TextIO | None = None
    ) -> None:
        """Writes nothing yet."""
        self._label = label
        self._unit = unit
        self._total = total
        self._first = self._done = done
        self._items = 0
        self.note = ""
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._every = _TERMINAL_SECONDS if self._terminal else _LOG_SECONDS
        self._began = self._told = time.monotonic()
        self._width = 0

    def advance(self, items: int, done: float | None = None) -> None:
        """`items` more are finished; `done` of `total` is reached (`done` grows by `items` when left out)."""
        self._items += items
        self._done = self._done + items if done is None else done
        now = time.monotonic()
        if now - self._told >= self._every:
            self._told = now
            self._write(self.line(now - self._began))

    def line(self, seconds: float) -> str:
        """What is told `seconds` after the start."""
        rate = self._items / seconds if seconds > 0 else 0.0
        parts = [f"{self._items:,} {self._unit}", f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"]
        if self._total:
            parts.insert(0, f"{min(1.0, self._done / self._total):.1%}")
            made = self._done - self._first
            if made > 0 and seconds >= _SETTLED_SECONDS:
                parts.append(f"{duration(max(0.0, self._total - self._done) / made * seconds)} left")
        return f"{self._label}: {', '.join(parts)}" + (f"; {self.note}" if self.note else "")

    def _write(self, text: str) -> None:
        if self._terminal:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the line of a terminal."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()


def duration(seconds: float) -> str:
    """`seconds` as a person says it: `45 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"
