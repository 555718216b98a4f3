"""One lock per working tree: two flows never write the same outputs. The second waits or is refused.

DVC's own locks do not do this: the repository's lock is free while a stage runs, and path locks refuse instead of wait.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from flows.errors import FlowError

LOCK = "scratch/flow.lock"
RUN_ID = "FUSION_FLOW_RUN_ID"
WAIT_SECONDS = 0.5

WhenBusy = Literal["wait", "refuse"]


class Stopped(FlowError):
    """The run was told to stop while it waited."""


@contextlib.contextmanager
def worktree_lock(
    root: Path,
    run_id: str,
    when_busy: WhenBusy = "refuse",
    stopped: Callable[[float], bool] = lambda seconds: False,
    on_wait: Callable[[str], None] = lambda holder: None,
) -> Iterator[None]:
    """Holds the tree's lock for the run `run_id`, whose id stands in the file.

    The kernel frees the lock when its holder dies, however it dies. `stopped(seconds)` waits and tells whether to give
    up; `on_wait` is called once with the holder's name when there is one.

    Raises:
        FlowError: another flow has it and `when_busy` is `refuse`; names the holder.
        Stopped: told to stop while waiting.
    """
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        told = False
        while not _free(file.fileno()):
            holder = _holder(path)
            if when_busy == "refuse":
                raise FlowError(
                    f"another flow is running in this working tree ({holder}): wait for it to end, or start with --wait"
                )
            if not told:
                on_wait(holder)
                told = True
            if stopped(WAIT_SECONDS):
                raise Stopped(f"stopped while it waited for the working tree ({holder} has it)")
        path.write_text(json.dumps({"pid": os.getpid(), "run": run_id}), encoding="utf-8")
        yield


def _free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    with contextlib.suppress(json.JSONDecodeError):
        holder = json.loads(path.read_text(encoding="utf-8") or "{}")
        if isinstance(holder, dict):
            return f"process {holder.get('pid', '?')}, run {holder.get('run', '?')}"
    return "process ?, run ?"
