"""A stage that is a SLURM job: its exit code comes back, a stop reaches it, and no second job writes the same state.

By a real SLURM where it is installed, and everywhere by the stand-in.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import pytest

from fusion.launchers.errors import LaunchError
from fusion.launchers.start import start_of
from fusion.train.errors import Preempted
from tests.launchers import scheduler, slurm_cluster
from tests.launchers.scheduler import install, jobs, submitting
from tests.launchers.test_start import LAUNCH
from tests.train.test_recipe import recipe

T = TypeVar("T")
STEPS = "srun bash -c 'trap \"exit 75\" TERM; touch started; while :; do sleep 0.05; done'"
"""A job whose ranks work until they are told to stop, and save then."""


class Cluster:
    """A real SLURM or the stand-in, a project's folder, and the processes that wait there for their jobs."""

    def __init__(self, folder: Path, environment: dict[str, str], real: bool) -> None:
        self.folder, self.root, self.environment, self.real = folder / "slurm", folder / "project", environment, real
        self.root.mkdir()
        self.waiting: list[BaseProcess] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([scheduler.__name__])

    def start(self, setup: str, **params: float) -> BaseProcess:
        process = self._context.Process(
            target=scheduler.waiting,
            args=(self.said(len(self.waiting)), self.environment, self.root, [setup], params),
        )
        process.start()
        self.waiting.append(process)
        return process

    def said(self, number: int) -> Path:
        """What a process has said on stderr."""
        return self.root / f"said-{number}.txt"

    def handed_in(self) -> int:
        """How many jobs there have been."""
        return sum(path.read_text(encoding="utf-8").count("was handed in") for path in self.root.glob("said-*.txt"))

    def running(self) -> list[str]:
        """Jobs that wait or run."""
        if not self.real:
            return [str(job) for job in jobs(self.folder) if alive(job)]
        return self.call("squeue", "--noheader", "--format=%i").split()

    def started(self) -> bool:
        """Whether the ranks of STEPS are at work."""
        return (self.root / "started").exists()

    def close(self) -> None:
        """No job gets a node any more."""
        if self.real:
            self.call("scontrol", "update", f"nodename={','.join(slurm_cluster.NODES)}", "state=drain", "reason=test")
        else:
            (self.folder / "state/nodes").unlink()

    def call(self, *command: str) -> str:
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    def end(self) -> None:
        for process in self.waiting:
            process.kill()
            process.join()
        for job in self.running():
            self.call("scancel", job)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def ended(process: BaseProcess) -> int | None:
    process.join(60)
    return process.exitcode


def until(true: Callable[[], T]) -> T:
    deadline = time.monotonic() + 60
    while not (made := true()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return made


@pytest.fixture(params=["stand-in", "real"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        if real := request.param == "real":
            if lacking := slurm_cluster.missing():
                pytest.skip(f"a real SLURM is needed: {lacking}")
            environment = stack.enter_context(slurm_cluster.running(tmp_path / "slurm"))
        else:
            environment = install(tmp_path / "slurm")
        made = Cluster(tmp_path, environment, real)
        stack.callback(made.end)
        yield made


def found(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its programs, by this process."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_comes_back(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    found(cluster, monkeypatch)
    assert submitting(cluster.root, [f"exit {code}"]) == (code, 0)
    left = {path.suffix for path in (cluster.root / "runs/launch").iterdir()}
    assert left <= {".sh", ".log"}, "its notes are gone"


def test_a_stop_reaches_the_ranks_and_is_waited_for(cluster: Cluster) -> None:
    process = cluster.start(STEPS)
    until(cluster.started)
    process.terminate()
    assert ended(process) == Preempted.exit_code
    assert not cluster.running()


def test_a_stop_cancels_a_job_that_waits_for_nodes(cluster: Cluster) -> None:
    cluster.close()
    process = cluster.start(STEPS)
    until(cluster.running)
    until(lambda: cluster.handed_in() == 1)
    process.terminate()
    assert ended(process) == 1 and "left no exit code" in cluster.said(0).read_text(encoding="utf-8")
    assert not cluster.running()


def test_ctrl_c_twice_cancels_the_job_and_sigterm_twice_does_not(cluster: Cluster) -> None:
    process = cluster.start("srun bash -c 'trap \"\" TERM; touch started; while :; do sleep 0.05; done'")
    until(cluster.started)
    for _ in range(2):
        process.terminate()
        time.sleep(0.5)
    assert cluster.running() and process.is_alive()
    os.kill(process.pid or 0, signal.SIGINT)
    assert ended(process) not in (0, None)
    until(lambda: not cluster.running())


def test_a_stop_before_the_ranks_are_there_ends_the_job(cluster: Cluster, tmp_path: Path) -> None:
    process = cluster.start(f"touch {tmp_path}/begun; sleep 60")
    until((tmp_path / "begun").exists)
    process.terminate()
    assert ended(process) not in (0, None)
    until(lambda: not cluster.running())


def test_a_job_that_was_not_written_down_yet_is_found(cluster: Cluster, tmp_path: Path) -> None:
    """The start was killed after `sbatch` had handed the job in, and before it had said the number."""
    line = f"until [ -e {tmp_path}/done ]; do sleep 0.05; done; exit 0"
    killed = cluster.start(line)
    (note,) = until(lambda: list(cluster.root.glob("runs/launch/*.job")))
    until(cluster.running)
    until(lambda: json.loads(note.read_text())["job"])
    killed.kill()
    killed.join()
    note.write_text(json.dumps(json.loads(note.read_text()) | {"job": None}), encoding="utf-8")
    second = cluster.start(line)
    until(lambda: cluster.said(1).is_file() and "is waited for" in cluster.said(1).read_text(encoding="utf-8"))
    (tmp_path / "done").touch()
    assert ended(second) == 0 and cluster.handed_in() == 1


def test_ranks_are_not_started_beside_a_job(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = cluster.start(STEPS)
    until(cluster.started)
    until(lambda: cluster.handed_in() == 1)
    killed.kill()
    killed.join()
    (job,) = cluster.running()
    found(cluster, monkeypatch)
    stage = recipe(cluster.root, "micro", "stage1")
    with pytest.raises(LaunchError, match=f"job {job} trains stage1 of micro"):
        start_of(stage, LAUNCH, "local", None)
    monkeypatch.setenv("SLURM_JOB_ID", job)  # as the job's own ranks have it
    assert start_of(stage, LAUNCH, "local", None).here(stage) == stage.hardware.ranks
    monkeypatch.delenv("SLURM_JOB_ID")
    cluster.call("scancel", job)
    until(lambda: not cluster.running())
    assert start_of(stage, LAUNCH, "local", None).here(stage) == stage.hardware.ranks


def test_a_start_waits_for_the_job_that_a_killed_one_left(cluster: Cluster, tmp_path: Path) -> None:
    line = f"until [ -e {tmp_path}/done ]; do sleep 0.05; done; exit 0"
    killed = cluster.start(line)
    until(cluster.running)
    until(lambda: cluster.handed_in() == 1)
    killed.kill()
    killed.join()
    second = cluster.start(line)
    time.sleep(1)
    assert second.is_alive() and cluster.handed_in() == 1
    (tmp_path / "done").touch()
    assert ended(second) == 0
    assert "of an earlier start is still there, and is waited for" in cluster.said(1).read_text(encoding="utf-8")
    assert cluster.handed_in() == 1


def test_a_job_with_another_recipe_ends_before_the_next_is_handed_in(cluster: Cluster) -> None:
    killed = cluster.start(STEPS)
    until(cluster.started)
    until(lambda: cluster.handed_in() == 1)
    killed.kill()
    killed.join()
    (first,) = cluster.running()
    second = cluster.start("exit 4", learning_rate=0.5)
    until(lambda: cluster.handed_in() == 2)
    assert first not in cluster.running()
    assert ended(second) == 4 and "with another recipe" in cluster.said(1).read_text(encoding="utf-8")
    assert cluster.handed_in() == 2


def test_a_controller_that_is_down_is_no_end(cluster: Cluster) -> None:
    if cluster.real:
        pytest.skip("what a controller that is down says was taken from a real one")
    process = cluster.start("sleep 0.5; exit 0")
    until(cluster.running)
    (cluster.folder / "state/down").touch()
    until(lambda: not cluster.running())
    time.sleep(0.5)
    assert process.is_alive()
    (cluster.folder / "state/down").unlink()
    assert ended(process) == 0


def test_a_refused_job_says_why(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    found(cluster, monkeypatch)
    if not cluster.real:
        (cluster.folder / "sbatch").write_text("#!/bin/bash\necho 'invalid partition' >&2; exit 1\n", encoding="utf-8")
    with pytest.raises(LaunchError, match=r"sbatch refused .*invalid partition"):
        submitting(cluster.root, [], partition="none")
