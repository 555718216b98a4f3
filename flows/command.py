"""Runs a command under the supervisor and hands its lines on as they come."""

import os
import re
import selectors
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from flows.supervisor import TOKEN, end_all, processes_with
from fusion.lineage.stages import Stage
from fusion.secrecy import mask

LINE_ENDS = re.compile(rb"\r\n|\n|\r")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
KEPT_LINES = 200
LAST_READ_SECONDS = 2.0
"""How long is read on when the supervisor is gone: a stage that it left behind may write for ever."""

ERROR_LINE = re.compile(r"^(?:[\w.]*(?:Error|Exception)|error|Error|ERROR)\b\s*:\s*\S")
EXITED = re.compile(r"^ERROR: failed to reproduce .*exited with (-?\d+)")
DVC_LINES = ("ERROR: failed to reproduce", "Running stage", "> ")


@dataclass
class Outcome:
    """How a command ended. `code` is its exit code; negative never, 128 + n for signal n."""

    code: int
    lines: list[str] = field(default_factory=list)
    """The last lines that it wrote."""

    def stage_code(self) -> int | None:
        """The exit code of the stage itself as DVC tells it, negative for a signal; None where DVC says nothing."""
        codes = [int(match[1]) for line in self.lines if (match := EXITED.match(line))]
        return codes[-1] if codes else None

    def reason(self) -> str:
        """Why it failed: the signal that killed it, else its last error line, else its last line, DVC's not counted."""
        own = [line for line in self.lines if not line.startswith(DVC_LINES)]
        code = self.stage_code()
        if code is not None and (code < 0 or code > 128):
            number = -code if code < 0 else code - 128
            memory = " (mostly the machine's memory running out)" if number == 9 else ""
            return f"killed by signal {number}{memory}; its last line: {own[-1] if own else 'none'}"
        errors = [line for line in own if ERROR_LINE.match(line)]
        if errors:
            return errors[-1]
        return own[-1] if own else f"ended with exit code {self.code if code is None else code} and said nothing"


def supervised(
    command: list[str], root: Path, environment: Mapping[str, str], service: bool = False, output: int = subprocess.PIPE
) -> tuple[subprocess.Popen[bytes], str]:
    """Starts a command under a supervisor that ends it when this process ends, or closes the supervisor's stdin.

    Returns the supervisor, and the token by which all that it started can be found.
    """
    token = uuid.uuid4().hex
    here = str(Path(__file__).parents[1])
    kept = {name: value for name, value in environment.items() if name != TOKEN}
    if here not in kept.get("PYTHONPATH", "").split(os.pathsep):
        kept["PYTHONPATH"] = f"{kept.get('PYTHONPATH', '')}{os.pathsep}{here}".strip(os.pathsep)
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.supervisor", *(["--service"] if service else []), token, *command],
        cwd=root, env=kept, start_new_session=True,
        stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return process, token


def run_command(
    command: list[str],
    root: Path,
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    stopped: Callable[[], bool],
) -> Outcome:
    """Runs it to its end, or until `stopped()`. Secrets of the environment are masked in every line.

    A progress bar that draws over itself gives one line each time it is drawn.
    """
    process, token = supervised(command, root, environment)
    assert process.stdin is not None and process.stdout is not None
    lines: list[str] = []

    def hand_on(raw: bytes) -> None:
        line = mask(CONTROL.sub("", raw.decode("utf-8", "replace")).rstrip(), environment)
        if line:
            lines.append(line)
            del lines[:-KEPT_LINES]
            on_line(line)

    try:
        _read(process, process.stdout, hand_on, stopped)
    finally:
        if not process.stdin.closed:
            process.stdin.close()  # Tells the supervisor to end whatever is left.
        process.wait()
        if process.returncode < 0:  # The supervisor itself was killed, and perhaps its guard with it.
            end_all(lambda: processes_with(TOKEN, token))
        process.stdout.close()
    code = process.returncode
    return Outcome(code if code >= 0 else 128 - code, lines)


def _read(
    process: subprocess.Popen[bytes], stream: IO[bytes], hand_on: Callable[[bytes], None], stopped: Callable[[], bool]
) -> None:
    """Reads to the end of the stream, or until the supervisor is gone and what was written before has been read."""
    rest = b""
    last_read = 0.0
    os.set_blocking(stream.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            ended = process.poll() is not None
            if ended and not last_read:
                last_read = time.monotonic() + LAST_READ_SECONDS
            ready = bool(selector.select(0.0 if ended else 0.2))
            if stopped() and process.stdin is not None and not process.stdin.closed:
                process.stdin.close()
            if ended and (not ready or time.monotonic() > last_read):
                break
            if not ready:
                continue
            chunk = os.read(stream.fileno(), 65536)
            if not chunk:
                break
            *whole, rest = LINE_ENDS.split(rest + chunk)
            for line in whole:
                hand_on(line)
    hand_on(rest)


def stage_command(stage: Stage, force: bool) -> list[str]:
    """`dvc repro` of one stage and nothing else."""
    repro = ["--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), stage.name]
    return [sys.executable, "-m", "dvc", *repro]
