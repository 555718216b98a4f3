"""A start that finds the lock of a compilation that was ended: torch's own lock, and DeepSpeed's compilation."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import psutil
import pytest

from fusion.train.extensions import LOCK, clear_locks
from tests.train.test_recipe import ROOT

HOLDER = """
import sys, time
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("made", flush=True)
time.sleep(60)
"""
RANK = """
from fusion.train.processes import join_group
join_group("cpu")
print("joined", flush=True)
"""


def hold(lock: Path) -> subprocess.Popen[str]:
    """A process that has torch's lock."""
    lock.parent.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "made\n"
    return process


def test_a_lock_is_waited_for_while_its_maker_lives_and_removed_when_it_is_gone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "extension" / LOCK
    maker = hold(lock)
    looking = Thread(target=clear_locks, args=(tmp_path,))
    looking.start()
    looking.join(2.0)
    assert looking.is_alive() and lock.exists()
    maker.kill()
    maker.wait()
    assert lock.exists(), "torch leaves it"
    looking.join(30.0)
    assert not looking.is_alive() and not lock.exists()
    assert f"left {lock}; it is removed" in capfd.readouterr().err
    clear_locks(tmp_path)
    assert not capfd.readouterr().err


def test_a_compiler_without_its_maker_is_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "extension" / LOCK
    lock.parent.mkdir()
    lock.touch()
    compiler = subprocess.Popen(["sleep", "2"], cwd=lock.parent)
    clear_locks(tmp_path)
    assert compiler.poll() is not None and not lock.exists()


def start(folder: Path) -> subprocess.Popen[str]:
    """One rank that joins its group, with extensions in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(folder), "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(port), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-c", RANK]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.long
@pytest.mark.parametrize("whole", [True, False], ids=["with its compiler", "alone"])
def test_a_start_after_a_kill_in_the_middle_of_compiling_goes_on(tmp_path: Path, whole: bool) -> None:
    first = start(tmp_path)
    deadline = time.monotonic() + 300
    while not (list(tmp_path.glob(f"*/{LOCK}")) and len(psutil.Process(first.pid).children(recursive=True)) > 1):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    compiling = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    for process in compiling if whole else []:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    first.wait()
    assert list(tmp_path.glob(f"*/{LOCK}")), "the kill came in the middle"
    second = start(tmp_path)
    told, messages = second.communicate(timeout=500)
    assert second.returncode == 0 and "joined" in told, messages
    assert "a compilation was ended before its time" in messages
    assert not list(tmp_path.glob(f"*/{LOCK}"))
    assert list(tmp_path.glob("*/*.so"))
