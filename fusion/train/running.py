"""Runs the launcher of a stage, and hands a request to stop on to its ranks."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """From now on this process is killed when the one that started it ends (Linux): no rank trains on unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run_launcher(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> tuple[int, bool]:
    """Runs a launcher to its end.

    SIGTERM and SIGINT go to the ranks alone, which finish their step and save: launchers kill what they started after
    a few seconds, which is too soon for a large state. A second signal kills launcher and ranks.

    Returns:
        the launcher's exit code, and whether a signal came.
    """
    # A session of its own: what a terminal or a scheduler sends to this process's group does not reach the launcher.
    launcher = subprocess.Popen(
        command, env=dict(environment), cwd=folder, start_new_session=True, preexec_fn=end_with_parent
    )
    received: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        with contextlib.suppress(psutil.Error):
            ranks = psutil.Process(launcher.pid).children()
            for process in [*ranks, psutil.Process(launcher.pid)] if len(received) > 1 else ranks:
                with contextlib.suppress(psutil.Error):
                    process.kill() if len(received) > 1 else process.terminate()

    if threading.current_thread() is not threading.main_thread():  # signals are somebody else's
        return launcher.wait(), False
    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return launcher.wait(), bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
