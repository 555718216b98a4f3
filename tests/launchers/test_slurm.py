"""A stage that is a SLURM job: its exit code comes back, a stop reaches it, and no second job writes the same state."""

import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from fusion.launchers.nodes import LaunchError
from fusion.train.errors import Preempted
from tests.launchers import scheduler
from tests.launchers.scheduler import install, jobs, submitting

STEPS = "srun bash -c 'trap \"exit 75\" TERM; while :; do sleep 0.05; done'"
"""A job whose ranks work until they are told to stop, and save then."""


class Cluster:
    """The stand-in, a project's folder, and the processes that wait there for their jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder / "slurm", folder / "project"
        self.root.mkdir()
        self.path = install(self.folder)["PATH"]
        self.waiting: list[BaseProcess] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([scheduler.__name__])

    def start(self, setup: str, **params: float) -> BaseProcess:
        process = self._context.Process(
            target=scheduler.waiting, args=(self.said(len(self.waiting)), self.path, self.root, [setup], params)
        )
        process.start()
        self.waiting.append(process)
        return process

    def said(self, number: int) -> Path:
        """What a process has said on stderr."""
        return self.root / f"said-{number}.txt"

    def running(self) -> list[int]:
        return [job for job in jobs(self.folder) if alive(job)]

    def end(self) -> None:
        for process in self.waiting:
            process.kill()
            process.join()
        for job in self.running():
            subprocess.run([self.folder / "scancel", str(job)], check=False, capture_output=True)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def ended(process: BaseProcess) -> int | None:
    process.join(60)
    return process.exitcode


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.end()


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_comes_back(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setenv("PATH", cluster.path)
    assert submitting(cluster.root, [f"exit {code}"]) == (code, 0)
    assert [path.name for path in (cluster.root / "runs/launch").iterdir()] == ["fusion-micro-stage1.sh"], (
        "notes are gone"
    )


def test_a_stop_reaches_the_ranks_and_is_waited_for(cluster: Cluster) -> None:
    process = cluster.start(STEPS)
    until(lambda: list(cluster.folder.glob("state/*.steps")))
    process.terminate()
    assert ended(process) == Preempted.exit_code
    assert not cluster.running()


def test_a_stop_cancels_a_job_that_waits_for_nodes(cluster: Cluster) -> None:
    (cluster.folder / "state/nodes").unlink()
    process = cluster.start(STEPS)
    until(cluster.running)
    process.terminate()
    assert ended(process) == 1 and "left no exit code" in cluster.said(0).read_text(encoding="utf-8")
    assert not cluster.running()


def test_a_second_stop_cancels_the_job(cluster: Cluster) -> None:
    process = cluster.start("srun bash -c 'trap \"\" TERM; while :; do sleep 0.05; done'")
    until(lambda: list(cluster.folder.glob("state/*.steps")))
    process.terminate()
    time.sleep(0.5)
    assert cluster.running()
    process.terminate()
    assert ended(process) == 1
    until(lambda: not cluster.running())


def test_a_start_waits_for_the_job_that_a_killed_one_left(cluster: Cluster, tmp_path: Path) -> None:
    line = f"until [ -e {tmp_path}/done ]; do sleep 0.05; done; exit 0"
    killed = cluster.start(line)
    until(cluster.running)
    until(lambda: list(cluster.root.glob("runs/launch/*.job")))
    killed.kill()
    killed.join()
    second = cluster.start(line)
    time.sleep(1)
    assert second.is_alive() and len(jobs(cluster.folder)) == 1
    (tmp_path / "done").touch()
    assert ended(second) == 0
    assert "of an earlier start is still there, and is waited for" in cluster.said(1).read_text(encoding="utf-8")
    assert len(jobs(cluster.folder)) == 1


def test_a_job_with_another_recipe_ends_before_the_next_is_handed_in(cluster: Cluster) -> None:
    killed = cluster.start(STEPS)
    until(lambda: list(cluster.folder.glob("state/*.steps")))
    until(lambda: list(cluster.root.glob("runs/launch/*.job")))
    killed.kill()
    killed.join()
    (first,) = cluster.running()
    second = cluster.start(f"if kill -0 {first}; then exit 9; fi; exit 4", learning_rate=0.5)
    assert ended(second) == 4 and "with another recipe" in cluster.said(1).read_text(encoding="utf-8")
    assert len(jobs(cluster.folder)) == 2


def test_a_controller_that_is_down_is_no_end(cluster: Cluster) -> None:
    process = cluster.start("sleep 0.5; exit 0")
    until(cluster.running)
    (cluster.folder / "state/down").touch()
    until(lambda: not cluster.running())
    time.sleep(0.5)
    assert process.is_alive()
    (cluster.folder / "state/down").unlink()
    assert ended(process) == 0


def test_a_refused_job_says_why(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", cluster.path)
    (cluster.folder / "sbatch").write_text("#!/bin/bash\necho 'no such partition' >&2; exit 1\n", encoding="utf-8")
    with pytest.raises(LaunchError, match="no such partition"):
        submitting(cluster.root, [])
