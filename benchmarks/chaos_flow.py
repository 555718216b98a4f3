"""`python -m benchmarks.chaos_flow`: failures injected into flow runs at random stages, and what is left of them.

`micro` is built once undisturbed. Then, `--rounds` times, one stage drawn at random is run anew by a flow and disturbed
at a random moment; DVC's run cache is emptied, so that the run after it has to compute the stage, too. After each of
these runs dvc.lock has to be that of the undisturbed run, byte for byte. No process of a disturbed run may be left, but
where all that could end it was killed as well; there the next run has to end it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from benchmarks.report import surroundings, write_result
from flows.environment import prepare
from flows.lock import LOCK, RUN_ID
from flows.server import start_server
from flows.supervisor import processes_with
from tests.e2e.project import Project, copy_project

VARIANT = "micro"
PATIENCE = 300.0 * float(os.environ.get("FUSION_TEST_SLOWNESS", "1"))
KINDS = (
    "stage killed",
    "DVC killed",
    "supervisor killed",
    "flow killed",
    "flow interrupted",
    "cancelled on the server",
    "everything killed but the stage",
    "everything killed",
)


@contextlib.contextmanager
def one_server(folder: Path) -> Iterator[str]:
    """A server for all runs; its address, which this process's environment has as long as the body runs."""
    before = dict(os.environ)
    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    prepare(folder)
    server = start_server(folder, os.environ)
    os.environ["PREFECT_API_URL"] = server.url
    try:
        yield server.url
    finally:
        server.end()
        os.environ.clear()
        os.environ.update(before)


class FlowRun:
    """One run of the flow as a process, and the processes that work for it."""

    def __init__(self, project: Project, *arguments: str) -> None:
        """Starts it."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(project.root), "FUSION_GRACE_SECONDS": "10"}
        self._lock = project.root / LOCK
        self._before = self._holder()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.pipeline", *arguments], cwd=project.root, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def id(self) -> str:
        """The run's id; empty until it has the working tree."""
        holder = self._holder()
        return "" if holder == self._before else holder

    def _holder(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(self._lock.read_text(encoding="utf-8"))["run"])
        return ""

    def workers(self) -> list[psutil.Process]:
        """All that runs for it, found by the run's id: supervisor and guard, DVC, the stage and what that started."""
        return processes_with(RUN_ID, self.id) if self.id else []

    def stage(self) -> list[psutil.Process]:
        """Those of them that are the stage itself."""
        return [one for one in self.workers() if not set(_words(one)) & {"flows.supervisor", "dvc"}]

    def wait_for_stage(self) -> bool:
        """Waits until the stage's process is there; False when the run ended before."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self.stage():
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.02)
        raise RuntimeError(f"no stage of run {self.id or '?'} started in {PATIENCE:.0f} s")

    def finish(self) -> tuple[int, str]:
        """Waits for its end; exit code, and what it said on stderr."""
        _, told = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, told

    def wait_until_nothing_is_left(self) -> None:
        """Raises `RuntimeError` when a process of the run outlives it."""
        until = time.monotonic() + 60
        while left := self.workers():
            if time.monotonic() > until:
                raise RuntimeError(f"run {self.id} left {[(one.pid, _words(one)) for one in left]}")
            time.sleep(0.05)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def cancel(run: FlowRun) -> None:
    """What the page's button does."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(run.id), Cancelling())


def disturb(run: FlowRun, kind: str) -> bool:
    """Injects one failure; whether there was still something to hit."""
    workers = run.workers()
    stage = {one.pid for one in run.stage()}
    words = {one.pid: set(_words(one)) for one in workers}
    chosen = {
        "stage killed": [one for one in workers if one.pid in stage],
        "DVC killed": [one for one in workers if "dvc" in words[one.pid] and "flows.supervisor" not in words[one.pid]],
        "supervisor killed": [one for one in workers if "flows.supervisor" in words[one.pid]],
        "everything killed but the stage": [one for one in workers if one.pid not in stage],
        "everything killed": workers,
    }.get(kind, [])
    if kind == "cancelled on the server":
        cancel(run)
    elif kind == "flow interrupted":
        run.process.send_signal(signal.SIGINT)
    elif kind == "flow killed" or kind.startswith("everything"):
        run.process.kill()
    else:
        return _kill(chosen)
    _kill(chosen)
    return True


def _kill(chosen: list[psutil.Process]) -> bool:
    hit = False
    for one in chosen:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
            hit = True
    return hit


def forget_runs(project: Project) -> None:
    """Empties DVC's run cache: what was computed before has to be computed again."""
    shutil.rmtree(project.root / ".dvc/cache/runs", ignore_errors=True)


def check_lock(project: Project, expected: bytes, after: str) -> None:
    """Runs the flow to its end and compares dvc.lock."""
    code, told = FlowRun(project).finish()
    if code:
        raise RuntimeError(f"the run after {after} failed: {told}")
    if (project.root / "dvc.lock").read_bytes() != expected:
        raise RuntimeError(f"dvc.lock differs after {after}")


def rounds(project: Project, count: int, seed: int) -> dict[str, Any]:
    """Disturbs so many runs of a built project; raises `RuntimeError` where something is not as it has to be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background processes begin with it ignored.
    chance = random.Random(seed)
    expected = (project.root / "dvc.lock").read_bytes()
    stages = [name for name, outs in project.lock().items() if outs]
    kinds: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    missed = 0
    while sum(kinds.values()) < count:
        number = sum(kinds.values())
        kind, name, wait = KINDS[number % len(KINDS)], chance.choice(stages), chance.uniform(0.0, 2.0)
        forget_runs(project)
        run = FlowRun(project, "--only", name, "--force")
        if not run.wait_for_stage():
            run.finish()
            continue
        until = time.monotonic() + wait
        while time.monotonic() < until and run.stage():
            time.sleep(0.01)
        if run.process.poll() is not None:
            continue
        print(f"{number + 1} of {count}: {kind} in {name} after {wait:.1f} s", file=sys.stderr, flush=True)
        hurt = disturb(run, kind)
        code, _ = run.finish()
        if not (hurt and code):  # The stage had ended: nothing was disturbed, and the round does not count.
            missed += 1
            continue
        if kind != "everything killed but the stage":
            run.wait_until_nothing_is_left()
        forget_runs(project)
        check_lock(project, expected, f"{kind} in {name}")
        run.wait_until_nothing_is_left()
        kinds[kind] += 1
        hit[name.split("@")[0]] += 1
    return {"kinds": dict(sorted(kinds.items())), "stages": dict(sorted(hit.items())), "came too late": missed}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="chaos_flow", help="of the result file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, one_server(Path(folder)):
        project = copy_project(Path(folder) / "project", VARIANT)
        began = time.monotonic()
        code, told = FlowRun(project).finish()
        if code:
            raise SystemExit(told)
        undisturbed = time.monotonic() - began
        made = rounds(project, given.rounds, given.seed)
        result = {
            "what": "flow runs disturbed at random stages, each followed by a whole run; see benchmarks/chaos_flow.py",
            "surroundings": surroundings(),
            "seed": given.seed,
            "rounds": given.rounds,
            **made,
            "equal": "dvc.lock after each following run, byte for byte; no process left",
            "seconds": {"undisturbed": round(undisturbed, 1), "all": round(time.monotonic() - began, 1)},
        }
        print(write_result(given.name, result))


if __name__ == "__main__":
    main()
