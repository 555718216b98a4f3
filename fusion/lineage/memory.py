"""The peak memory of a process and all its descendants together."""

import contextlib
import resource
import sys
import threading
from typing import Self

import psutil

FIRST_INTERVAL_SECONDS, LAST_INTERVAL_SECONDS = 0.25, 2.0
"""Reading a proportional set size takes the kernel 5 ms for a gigabyte, so a long stage is looked at less often."""


class PeakMemory:
    """A context manager that measures; `peak_bytes` holds the answer, also while it runs.

    Descendants are looked at, too: training ranks are processes of their own, and their sum counts. Pages that several
    of them share count once where the system tells (Linux: proportional set size). What lives shorter than the time
    between two looks is seen through the processes' own high-water marks.
    """

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._sampled = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    @property
    def peak_bytes(self) -> int:
        """The largest sum seen so far, in bytes."""
        unit = 1 if sys.platform == "darwin" else 1024
        own = max(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        )
        return max(self._sampled, own * unit)

    def __enter__(self) -> Self:
        """Starts the watching thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops it."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        interval = FIRST_INTERVAL_SECONDS
        while not self._stop.wait(interval):
            interval = min(interval * 1.25, LAST_INTERVAL_SECONDS)
            members = [process, *process.children(recursive=True)]
            self._sampled = max(self._sampled, sum(_resident_bytes(member) for member in members))


def _resident_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):  # It ended meanwhile, or is not ours.
        try:
            return int(process.memory_full_info().pss)
        except (AttributeError, psutil.AccessDenied):
            return int(process.memory_info().rss)
    return 0
