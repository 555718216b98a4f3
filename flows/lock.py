"""One lock per working tree: two flows never write the same outputs, and a dead flow's leftovers are swept first.

DVC's own locks do not do this: the repository's lock is free while a stage runs, and path locks refuse instead of wait.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from flows.errors import FlowError
from flows.supervisor import end_all, processes_with

LOCK = "scratch/flow.lock"
RUN_ID = "FUSION_FLOW_RUN_ID"


@contextlib.contextmanager
def worktree_lock(root: Path, wait: bool = False) -> Iterator[None]:
    """Holds the tree's lock; raises `FlowError` naming the holder when another flow has it and `wait` is False.

    The kernel frees the lock when its holder dies, however it dies. The file keeps the last run's id, by which the next
    holder finds processes that outlived it (everything was killed at once, supervisors too).
    """
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        _acquire(file.fileno(), path, wait)
        _sweep(_last_run(path), root)
        yield


def note_run(root: Path, run_id: str) -> None:
    """Writes the id of the run that now holds the lock into it."""
    (root / LOCK).write_text(json.dumps({"pid": os.getpid(), "run": run_id}), encoding="utf-8")


def _acquire(descriptor: int, path: Path, wait: bool) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not wait:
                holder = _last_run(path)
                raise FlowError(
                    f"another flow is running in this working tree (process {holder.get('pid', '?')}, "
                    f"run {holder.get('run', '?')}): wait for it to end, or start with --wait"
                ) from None
            time.sleep(0.5)


def _last_run(path: Path) -> dict[str, object]:
    with contextlib.suppress(json.JSONDecodeError):
        holder = json.loads(path.read_text(encoding="utf-8") or "{}")
        if isinstance(holder, dict):
            return holder
    return {}


def _sweep(last: dict[str, object], root: Path) -> None:
    """Ends what a killed run left behind, and removes DVC's list of path locks if a crash cut it off."""
    if isinstance(run := last.get("run"), str) and run:
        end_all(lambda: processes_with(RUN_ID, run))
    locks = root / ".dvc/tmp/rwlock"
    if locks.is_file():
        try:
            json.loads(locks.read_text(encoding="utf-8"))
        except ValueError:
            locks.unlink()
