"""A data stage killed at chosen moments and started again until it ends: for tests and for benchmarks/chaos_data.py.

`python -m benchmarks.kills JOB` is the process that is killed. It kills itself with SIGKILL, after so many events that
Python's audit hooks see (opening, renaming, linking, removing and cutting files: just before it happens) or after so
many seconds (wherever it is then, in the middle of a write included).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

_EVENTS = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}


@dataclass(frozen=True)
class Kill:
    """When: before event number `event` (1 = the first), or after `seconds`; counted from the stage's start."""

    event: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Job:
    """A call `function(settings, catalog, **arguments)` on the project folder `root`.

    `function` is "module:name", for example "fusion.data.ingest:ingest_source"; `data` overrides settings of
    params.yaml's section `data`. Arguments called `root` are made by themselves.
    """

    function: str
    root: str
    arguments: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)


def run_killed(job: Job, kills: Iterable[Kill], to_the_end: bool = True, timeout: float = 300.0) -> int:
    """Runs `job` once for each of `kills`, and then to its end; returns how many of the kills came before the end.

    Raises:
        RuntimeError: a start failed by itself, a process of a killed one lived on, or `timeout` seconds passed.
    """
    hits = 0
    for kill in [*kills, *([None] if to_the_end else [])]:
        command = [sys.executable, "-m", "benchmarks.kills", json.dumps([asdict(job), kill and asdict(kill)])]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            _, told = process.communicate(timeout=timeout)
        if process.returncode == -signal.SIGKILL:
            hits += 1
        elif process.returncode:
            raise RuntimeError(f"{job.function} failed:\n{told}")
        _wait_for_the_session_to_end(process.pid)
    return hits


def _wait_for_the_session_to_end(session: int, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while living := [found.pid for found in psutil.process_iter() if _session(found.pid) == session]:
        if time.monotonic() > until:
            raise RuntimeError(f"processes {living} outlived the stage that had started them")
        time.sleep(0.02)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid) if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else None
    except (ProcessLookupError, psutil.Error):
        return None


def _main() -> None:
    from fusion.data.catalog import load_catalog
    from fusion.settings import load_settings

    job, kill = json.loads(sys.argv[1])
    root = Path(job["root"])
    settings = load_settings()
    settings = settings.model_copy(update={"data": settings.data.model_copy(update=job["data"])})
    catalog = load_catalog(root / "data/catalog")
    module, _, name = job["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    if kill is not None:
        _arm(kill)
    function(settings, catalog, **job["arguments"], root=root)


def _arm(kill: dict[str, Any]) -> None:
    if kill["seconds"] is not None:
        timer = threading.Timer(kill["seconds"], os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    if (left := kill["event"]) is None:
        return

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        # Python's own reading of modules is not the stage's work.
        if event in _EVENTS and not str(arguments[0]).endswith((".py", ".pyc", ".so")):
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    _main()
