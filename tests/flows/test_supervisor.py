"""Nothing outlives its flow: kill -9, interruption, leftovers of a stage, leftovers of a run that was killed whole."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.lock import LOCK, RUN_ID, worktree_lock
from flows.plan import changes
from tests.flows.flow_project import environment, repro


def wait_for(condition, seconds: float = 30.0) -> bool:
    """Whether `condition()` becomes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def hanging_flow(project: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A flow whose `join` hangs, and the ids of its stage and of its two children in sessions of their own."""
    command = [sys.executable, "-m", "flows.pipeline"]
    with (project / "terminal.txt").open("wb") as terminal:
        flow = subprocess.Popen(command, cwd=project, env=environment(MODE="hang"), stdout=terminal, stderr=terminal)
    assert wait_for((project / "pids.txt").is_file, 90.0)
    pids = [int(word) for word in (project / "pids.txt").read_text().split()]
    assert all(alive(pid) for pid in pids)
    return flow, pids


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_a_killed_or_interrupted_flow(project, number):
    repro(project)
    (project / "params.yaml").write_text("repeat: 5\n")
    flow, pids = hanging_flow(project)
    flow.send_signal(number)
    code = flow.wait(60)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert wait_for(lambda: not any(alive(pid) for pid in pids))
    terminal = (project / "terminal.txt").read_text()
    assert "join  working on join" in terminal and "Finished in state" not in terminal and "Traceback" not in terminal
    # Nothing has to be mended by hand: the next run goes through.
    (project / "pids.txt").unlink()
    repro(project)
    assert changes(project) == {}


def supervise(code: str, tmp_path: Path) -> subprocess.Popen[bytes]:
    """The supervisor alone, over a Python program."""
    command = [sys.executable, "-m", "flows.supervisor", "a-token", sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=tmp_path, env=environment(), stdin=subprocess.PIPE, start_new_session=True)


def test_the_exit_code_is_the_commands_own(tmp_path):
    for code, expected in (("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137), ("", 0)):
        assert supervise(code, tmp_path).wait(20) == expected


def test_what_a_command_leaves_behind_ends_with_it(tmp_path):
    """Also a process that ignores SIGTERM, left the session and cleaned its environment."""
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); open('ready', 'w'); time.sleep(600)"
    code = (
        "import subprocess, sys, time, os\n"
        f"p = subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True, env={{}})\n"
        "while not os.path.exists('ready'): time.sleep(0.02)\n"
        "print(p.pid, file=open('pid', 'w'))\n"
    )
    assert supervise(code, tmp_path).wait(20) == 0
    assert not alive(int((tmp_path / "pid").read_text()))


def test_the_next_run_sweeps_what_a_run_killed_whole_left(project):
    """Flow and supervisor were killed at once: the stage goes on as an orphan, with its run's id in its environment."""
    orphan = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env=environment(**{RUN_ID: "old"})
    )
    (project / LOCK).parent.mkdir()
    (project / LOCK).write_text(json.dumps({"pid": 1, "run": "old"}))
    (project / ".dvc/tmp").mkdir()
    (project / ".dvc/tmp/rwlock").write_text('{"write": {"/a')
    with worktree_lock(project):
        pass
    assert not alive(orphan.pid)
    assert not (project / ".dvc/tmp/rwlock").exists()
