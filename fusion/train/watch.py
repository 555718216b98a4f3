"""What can stop a rank from outside: a signal that asks it to end, and a step that never ends."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from fusion.train.errors import Stalled
from fusion.train.leaving import leave_note


class StopRequest:
    """SIGTERM (a scheduler's preemption) or SIGINT was received; the step that runs is finished first."""

    def __init__(self) -> None:
        self.received = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True


class Watch:
    """Ends this rank when it says nothing for too long.

    A rank that waits in an exchange waits for another one: each tells what it was doing, so that the one to look at is
    the one that was not waiting.
    """

    def __init__(self, rank: int, minutes: float | None, end: Callable[[int], None] = os._exit) -> None:
        self._rank, self._seconds, self._end = rank, None if minutes is None else 60 * minutes, end
        self._doing, self._since, self._over = "starting", time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="watch")
        if self._seconds is not None:
            self._thread.start()

    def now(self, doing: str) -> None:
        """This is being done from now on."""
        self._doing, self._since = doing, time.monotonic()

    def close(self) -> None:
        """Stops watching."""
        self._over.set()

    def _look(self) -> None:
        assert self._seconds is not None
        while not self._over.wait(min(1.0, self._seconds / 4)):
            silent = time.monotonic() - self._since
            if silent > self._seconds:
                print(
                    f"error: rank {self._rank} has not gone on for {silent / 60:.3g} minutes (guards.stall_minutes "
                    f"{self._seconds / 60:.3g}); it was {self._doing}. Look at the rank that was not waiting for "
                    "others; the same command continues from the last complete checkpoint.",
                    file=sys.stderr,
                    flush=True,
                )
                leave_note(Stalled.exit_code)
                self._end(Stalled.exit_code)
                return
