"""Runs one command and makes sure that nothing of it outlives the one who asked for it.

`python -m flows.supervisor [--service] TOKEN COMMAND...` runs COMMAND with FUSION_STAGE_TOKEN=TOKEN in its environment.
Standard input is a pipe that the caller holds open and never writes to: when it closes - the caller ended, was
interrupted or was killed - every descendant is ended. The same happens to what the command leaves behind when it ends
by itself.

Ending is first a question: the processes that the command itself started (DVC's stage) get SIGTERM and may save what
they have for FUSION_GRACE_SECONDS. DVC is not asked before it has had time to write down how the stage ended. A service
(a worker, a server) is asked itself, and may end its own children. Then everything gets SIGTERM, and at last SIGKILL.

Descendants are found in two ways, because each alone misses some. Training launchers put ranks into sessions of their
own, so process groups do not tell; the token in the environment does. A process that cleans its environment is still
found in the process tree: this process adopts orphans (Linux), so none of them leaves the tree. A second process of the
supervisor, its guard, does the same when the first one is killed.
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
GRACE = "FUSION_GRACE_SECONDS"
LAST_WORDS_SECONDS = 3.0
"""Between SIGTERM to everything and SIGKILL."""
SAVING_SECONDS = 3.0
"""How long DVC may work without a running stage after it was told to stop: it hashes outputs and writes dvc.lock."""
SERVICE_SECONDS = 15.0
"""What a service has beyond that: its runs give their stages the time to save, then say how they ended."""
PR_SET_CHILD_SUBREAPER = 36
ORPHANED_EXIT_CODE = 143


def grace_seconds() -> float:
    """How long a stage may take to save its state when it is told to stop."""
    return float(os.environ.get(GRACE, "20"))


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """All living processes that have `variable`=`value` in the environment they were started with, but this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # It ended meanwhile, or belongs to somebody else.
            if process.pid != os.getpid() and process.environ().get(variable) == value and _alive(process):
                found.append(process)
    return found


def end_all(find: Callable[[], list[psutil.Process]], grace: float = LAST_WORDS_SECONDS) -> int:
    """Ends what `find` finds until it finds nothing: SIGTERM, then SIGKILL after the grace period. Returns how many."""
    deadline = time.monotonic() + grace
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


def _descendants(token: str, without: int | None = None) -> list[psutil.Process]:
    tree = [process for process in psutil.Process().children(recursive=True) if _alive(process)]
    found = {process.pid: process for process in [*tree, *processes_with(TOKEN, token)]}
    found.pop(without or 0, None)
    return list(found.values())


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap() -> None:
    """Collects adopted processes that have ended, so that none stays a zombie."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _start_guard(token: str) -> tuple[int, int]:
    """A process that ends everything with the token when this one dies without a word; its id, and the pipe to it."""
    read, write = os.pipe()
    guard = os.fork()
    if guard:
        os.close(read)
        return guard, write
    os.close(write)
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # Whoever reads the stage's lines does not have to wait for this process.
        os.dup2(null, descriptor)
    if not os.read(read, 1):  # A byte says that all is well; the end of the pipe, that nobody is left to say so.
        end_all(lambda: processes_with(TOKEN, token))
    os._exit(0)


def _ask(child: subprocess.Popen[bytes], service: bool) -> int | None:
    """Tells a command to stop and waits as long as it may take; its exit code, or None if it is still there."""
    deadline = time.monotonic() + grace_seconds() + (SERVICE_SECONDS if service else 0.0)
    asked: set[int] = set()
    idle_since = time.monotonic()
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(psutil.Error):
            command = psutil.Process(child.pid)
            working = [command] if service else [process for process in command.children() if _alive(process)]
            for process in working:
                if process.pid not in asked:
                    asked.add(process.pid)
                    process.terminate()
            if working:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > SAVING_SECONDS:
                return None
        time.sleep(0.05)
    return child.poll()


def main(arguments: list[str]) -> int:
    """Supervises one command; returns its exit code, or 143 when the caller went away."""
    service = arguments[0] == "--service"
    token, *command = arguments[1:] if service else arguments
    guard, pipe = _start_guard(token)
    _adopt_orphans()
    gone = threading.Event()

    def wait_for_the_caller() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        gone.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: gone.set())
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env={**os.environ, TOKEN: token}, start_new_session=True
    )
    threading.Thread(target=wait_for_the_caller, daemon=True).start()
    code = None
    while code is None and not gone.wait(0.05):
        code = child.poll()
    stopped = code is None
    if stopped:
        _ask(child, service)
    elif service:  # What it started sees that it is gone and ends its own work.
        psutil.wait_procs(_descendants(token, guard), timeout=grace_seconds() + SERVICE_SECONDS)
    end_all(lambda: _descendants(token, guard), LAST_WORDS_SECONDS if stopped else 0.0)
    child.wait()
    os.write(pipe, b".")
    os.waitpid(guard, 0)
    _reap()
    if stopped or code is None:
        return ORPHANED_EXIT_CODE
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
