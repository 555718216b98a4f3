"""Runs the launcher of a stage, and hands a request to stop on to its ranks."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import psutil

from fusion.train.errors import WHAT_TO_DO
from fusion.train.leaving import NOTES, first_reason

_PR_SET_PDEATHSIG = 1
_LARGEST, _SHELL, _SIGNALS = 256, 128, 64


class Ending(NamedTuple):
    """How the ranks of a stage ended."""

    code: int
    """The exit code of the rank that ended first, as far as it is known; else the launcher's."""
    signals: int = 0
    """How many requests to stop came."""


def end_with_parent() -> None:
    """From now on this process is killed when the one that started it ends (Linux): no rank trains on unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run_launcher(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Ending:
    """Runs a launcher to its end.

    SIGTERM and SIGINT go to the ranks alone, which finish their step and save: launchers kill what they started after
    a few seconds, which is too soon for a large state. A second signal kills launcher and ranks.
    """
    with tempfile.TemporaryDirectory(prefix="fusion-ranks-") as notes:
        code, signals = _run(command, {**environment, NOTES: notes}, folder)
        told = first_reason(Path(notes), set(WHAT_TO_DO)) if code else None
    return Ending(_of_rank(code) if told is None else told, signals)


def _of_rank(code: int) -> int:
    """Minus the signal that killed a rank, where a launcher left with that as its code: 247 is -9, 137 a shell's."""
    if code > _LARGEST - _SIGNALS:
        return code - _LARGEST
    return _SHELL - code if _SHELL < code <= _SHELL + _SIGNALS else code


def _run(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Ending:
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
        return Ending(launcher.wait())
    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return Ending(launcher.wait(), len(received))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
