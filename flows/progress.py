"""A stage's own progress lines, read for the page: the share that is done, and what else the line says."""

import contextlib
import contextvars
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

WRITE_SECONDS = 5.0

PLAIN = re.compile(r"^(?P<label>[^%|]{1,120}?): (?P<percent>\d{1,3}(?:\.\d+)?)%, (?P<rest>.+)$")
"""Lines of `fusion.progress`: `ingest tiny-stage1/scenes: 12.3%, 400 samples, 20/s, 3 min left`."""
BAR = re.compile(r"^(?P<label>[^%|]{1,120}?):\s+(?P<percent>\d{1,3})%\|[^|]*\|\s*(?P<rest>.+)$")
"""Training's bar: `tiny stage1:  40%|####      | 178/446 [01:20<02:00, 2.2step/s, loss 2.1]`."""


@dataclass(frozen=True)
class Reached:
    """How far a stage is: percent done, and the words of the line."""

    percent: float
    text: str


def read_progress(line: str) -> Reached | None:
    """What a line says about progress; None for any other line."""
    match = PLAIN.match(line) or BAR.match(line)
    if match is None:
        return None
    percent = float(match["percent"])
    return Reached(percent, f"{match['label']}: {match['rest'].strip()}") if percent <= 100 else None


class ProgressWriter:
    """Puts the newest progress on the page every few seconds, from a thread: a slow server never holds a stage up.

    `write` is given the progress; it runs in the context in which this was made, that of the task.
    """

    def __init__(self, write: Callable[[Reached], None]) -> None:
        self._write = write
        self._newest: Reached | None = None
        self._over = threading.Event()
        self._context = contextvars.copy_context()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def see(self, line: str) -> None:
        """Takes notice of a line."""
        if (reached := read_progress(line)) is not None:
            self._newest = reached

    def __enter__(self) -> Self:
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes the last state."""
        self._over.set()
        self._thread.join(timeout=2 * WRITE_SECONDS)

    def _run(self) -> None:
        written: Reached | None = None
        over = False
        while not over:
            over = self._over.wait(WRITE_SECONDS)
            if self._newest is not None and self._newest != written:
                written = self._newest
                with contextlib.suppress(Exception):  # The page shows less for a while; the log has the lines.
                    self._context.copy().run(self._write, written)
