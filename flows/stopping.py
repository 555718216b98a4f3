"""Why a run has to stop: cancelled on the page or through the API, or its worker is gone. One watch a flow run.

Prefect's worker ends a cancelled run's process, but only while the worker lives, and it knows nothing of a run that a
person started in a terminal. So the run itself looks: at its own state on the server, and at who started it.
"""

import contextlib
import contextvars
import os
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self
from uuid import UUID

import psutil

LOOK_SECONDS = 1.0
ASK_EVERY = 2
"""The server is asked at every second look."""
STARTED_BY_A_WORKER = "PREFECT__FLOW_RUN_ID"

_current: dict[str, "Stop"] = {}


class Stop:
    """Set once, with the reason. Tasks of a run find theirs by the run's id: Prefect hands them plain values only."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""
        self.cancelled = False

    def set(self, reason: str, cancelled: bool = False) -> None:
        """The first reason counts."""
        if not self._event.is_set():
            self.reason, self.cancelled = reason, cancelled
            self._event.set()

    def is_set(self) -> bool:
        """Whether the run has to stop."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Waits at most so long; whether the run has to stop."""
        return self._event.wait(seconds)


def stop_of(run_id: str) -> Stop:
    """The stop of a run of this process."""
    return _current.setdefault(run_id, Stop())


class Watch:
    """A context manager around a flow run; sets its `Stop` when the run is cancelled, its worker dies, or it ends."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._over = threading.Event()
        self._parent = psutil.Process(os.getppid()) if STARTED_BY_A_WORKER in os.environ and os.getppid() > 0 else None
        self.stop = stop_of(run_id)

    def __enter__(self) -> Self:
        """Starts to look."""
        look = contextvars.copy_context().run  # With the settings of Prefect that the run has.
        threading.Thread(target=look, args=(self._look,), name="watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whatever ended the run, nothing that it started goes on."""
        self._over.set()
        self.stop.set("the run ended")
        _current.pop(self._run_id, None)

    def _look(self) -> None:
        from prefect.client.orchestration import get_client

        looks = 0
        client = get_client(sync_client=True)
        while not self._over.wait(LOOK_SECONDS) and not self.stop.is_set():
            if self._parent is not None and not (self._parent.is_running() and os.getppid() == self._parent.pid):
                self.stop.set("the worker that started this run is gone")
            looks += 1
            if looks % ASK_EVERY == 0:
                with contextlib.suppress(Exception):  # The server is away; it may come back, and the stage goes on.
                    state = client.read_flow_run(UUID(self._run_id)).state
                    if state is not None and (state.is_cancelling() or state.is_cancelled()):
                        self.stop.set("cancelled", cancelled=True)


@contextlib.contextmanager
def stopping(stop: Stop) -> Iterator[None]:
    """Sets `stop` when the body is left by an exception, such as the one that Prefect makes of SIGTERM."""
    try:
        yield
    except BaseException as error:
        stop.set(f"interrupted by {type(error).__name__}")
        raise
