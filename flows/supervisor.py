"""Runs one command and makes sure that nothing of it outlives the flow that asked for it.

`python -m flows.supervisor TOKEN COMMAND...` runs COMMAND with FUSION_STAGE_TOKEN=TOKEN in its environment. Standard
input is a pipe that the flow holds open and never writes to: when it closes - the flow ended, was interrupted or was
killed - every descendant is ended, first with SIGTERM, after a grace period with SIGKILL. The same happens to what the
command leaves behind when it ends by itself.

Descendants are found in two ways, because each alone misses some. Training launchers put ranks into sessions of their
own, so process groups do not tell; the token in the environment does. A process that cleans its environment is still
found in the process tree: this process adopts orphans (Linux), so none of them leaves the tree.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil

TOKEN = "FUSION_STAGE_TOKEN"
GRACE_SECONDS = 10.0
PR_SET_CHILD_SUBREAPER = 36
ORPHANED_EXIT_CODE = 143


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """All living processes that have `variable`=`value` in the environment they were started with, but this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # It ended meanwhile, or belongs to somebody else.
            if process.pid != os.getpid() and process.environ().get(variable) == value and _alive(process):
                found.append(process)
    return found


def end_all(find: Callable[[], list[psutil.Process]], grace_seconds: float = GRACE_SECONDS) -> int:
    """Ends what `find` finds until it finds nothing: SIGTERM, then SIGKILL after the grace period. Returns how many."""
    deadline = time.monotonic() + grace_seconds
    asked: set[int] = set()
    while processes := find():
        for process in processes:
            with contextlib.suppress(psutil.Error):
                if time.monotonic() > deadline:
                    process.kill()
                elif process.pid not in asked:
                    process.terminate()
                asked.add(process.pid)
        psutil.wait_procs(processes, timeout=0.2)
    return len(asked)


def _alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def _descendants(token: str) -> list[psutil.Process]:
    tree = [process for process in psutil.Process().children(recursive=True) if _alive(process)]
    return list({process.pid: process for process in [*tree, *processes_with(TOKEN, token)]}.values())


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap() -> None:
    """Collects adopted processes that have ended, so that none stays a zombie."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main(arguments: list[str]) -> int:
    """Supervises one command; returns its exit code, or 143 when the flow went away."""
    token, *command = arguments
    _adopt_orphans()
    gone = threading.Event()

    def wait_for_the_flow() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        gone.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: gone.set())
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env={**os.environ, TOKEN: token}, start_new_session=True
    )
    threading.Thread(target=wait_for_the_flow, daemon=True).start()
    code = None
    while code is None and not gone.wait(0.05):
        code = child.poll()
    end_all(lambda: _descendants(token), GRACE_SECONDS if code is None else 0.0)
    child.wait()
    _reap()
    if code is None:
        return ORPHANED_EXIT_CODE
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
