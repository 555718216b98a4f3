"""Nothing outlives who asked for it: kill -9, leftovers of a command, a supervisor that is killed itself."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from flows.command import run_command
from flows.progress import read_progress
from tests.flows.flow_project import SLOWNESS, alive, environment, wait_for

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); open('ready', 'w'); time.sleep(600)"
LEAVES_ONE = (
    "import subprocess, sys, time, os\n"
    f"p = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=True, env={{}})\n"
    "while not os.path.exists('ready'): time.sleep(0.02)\n"
    "open('pid.partial', 'w').write(str(p.pid)); os.rename('pid.partial', 'pid')\n"
)


def supervise(code: str, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """The supervisor alone, over a Python program."""
    command = [sys.executable, "-m", "flows.supervisor", *options, folder.name, sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=folder, env=environment(), stdin=subprocess.PIPE, start_new_session=True)


def test_the_exit_code_is_the_commands_own(tmp_path):
    for code, expected in (("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137), ("", 0)):
        assert supervise(code, tmp_path).wait(120 * SLOWNESS) == expected


def test_what_a_command_leaves_behind_ends_with_it(tmp_path):
    """Also a process that ignores SIGTERM, left the session and cleaned its environment."""
    assert supervise(LEAVES_ONE, tmp_path).wait(120 * SLOWNESS) == 0
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("kind", ["the caller goes", "the supervisor is killed"])
def test_a_running_command_ends_with_its_caller_and_with_its_supervisor(tmp_path, kind):
    code = LEAVES_ONE.replace(", env={}", "") + "open('self', 'w').write(str(os.getpid())); time.sleep(600)"
    supervisor = supervise(code, tmp_path)
    assert wait_for(lambda: (tmp_path / "self").is_file() and (tmp_path / "self").read_text())
    pids = [int((tmp_path / name).read_text()) for name in ("self", "pid")]
    if kind == "the caller goes":
        assert supervisor.stdin is not None
        supervisor.stdin.close()
        assert supervisor.wait(120 * SLOWNESS) == 143
    else:
        supervisor.kill()
        supervisor.wait()
    assert wait_for(lambda: not any(alive(pid) for pid in pids)), "the guard ends what is left"


def test_a_stage_may_save_its_state_and_its_ranks_are_not_hit_before(tmp_path):
    """DVC's child is asked first, alone; a rank that it started sees no signal while it saves."""
    rank = "import signal, time; signal.signal(15, lambda *_: open('hit', 'w')); open('rank', 'w'); time.sleep(600)"
    stage = (
        "import os, signal, subprocess, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(0.5); open('saved', 'w').write(str(os.path.exists('hit'))); p.kill(); sys.exit(75)\n"
        f"p = subprocess.Popen([sys.executable, '-c', {rank!r}], start_new_session=True)\n"
        "signal.signal(15, save)\n"
        "while not os.path.exists('rank'): time.sleep(0.02)\n"
        "open('up', 'w').close()\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "stage.py").write_text(stage)
    dvc = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, 'stage.py']))"
    supervisor = supervise(dvc, tmp_path)
    assert wait_for((tmp_path / "up").is_file)
    assert supervisor.stdin is not None
    supervisor.stdin.close()
    assert supervisor.wait(120 * SLOWNESS) == 143
    assert (tmp_path / "saved").read_text() == "False"


def test_lines_come_as_they_are_written_and_secrets_never(tmp_path):
    code = (
        "import os, sys, time\n"
        "print('one', os.environ['MY_TOKEN'], flush=True)\n"
        "sys.stderr.write('\\r 10%|#  | 1/10 [00:01<00:09]\\r 20%|## | 2/10 [00:02<00:08]'); sys.stderr.flush()\n"
        "open('written', 'w').close()\n"
        "while not os.path.exists('read'): time.sleep(0.02)\n"
        "print('\\nlast'); sys.exit(4)\n"
    )
    seen: list[str] = []

    def on_line(line: str) -> None:
        seen.append(line)
        if "10%" in line:  # It came while the command still ran.
            assert wait_for((tmp_path / "written").is_file)
            (tmp_path / "read").touch()

    outcome = run_command(
        [sys.executable, "-u", "-c", code], tmp_path, environment(MY_TOKEN="abc-secret-def"), on_line, lambda: False
    )
    assert outcome.code == 4 and outcome.reason() == "last"
    assert seen[0] == "one ***" and seen[-1] == "last" and len(seen) == 4
    assert "abc-secret-def" not in "\n".join(seen)


def test_a_command_ends_when_it_is_told_to(tmp_path):
    stop = threading.Event()
    outcome = run_command(
        [sys.executable, "-uc", "import time; print('up'); time.sleep(600)"], tmp_path, environment(),
        lambda line: stop.set(), stop.is_set,
    )  # fmt: skip
    assert outcome.code == 143 and not [
        one for one in psutil.process_iter() if str(tmp_path) in " ".join(_words(one)) and one.pid != os.getpid()
    ]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_progress_is_read_from_the_stages_own_lines():
    plain = read_progress("ingest tiny-stage1/scenes: 12.3%, 400 samples, 20/s, 3 min left")
    assert plain is not None and plain.percent == 12.3 and plain.text.endswith("400 samples, 20/s, 3 min left")
    bar = read_progress("tiny stage1:  40%|####      | 178/446 [01:20<02:00,  2.2step/s, loss 2.104, 71 samples/s]")
    assert bar is not None and bar.percent == 40 and "loss 2.104" in bar.text
    for line in ("accuracy: 81.3% of 2000", "wrote 100% of it", "", "error: 5%|", "a: 900%, b"):
        assert read_progress(line) is None, line


def test_sigterm_to_the_supervisor_is_the_same(tmp_path):
    supervisor = supervise("open('up', 'w'); import time; time.sleep(600)", tmp_path)
    assert wait_for((tmp_path / "up").is_file)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(120 * SLOWNESS) == 143
