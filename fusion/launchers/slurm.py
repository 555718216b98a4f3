"""A training stage as a SLURM job: handed in, waited for, told to stop, and found again by a later start."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from fusion.launchers.nodes import LaunchError
from fusion.launchers.scripts import job_name, slurm_script
from fusion.settings import Launch
from fusion.train.recipe import Recipe
from fusion.train.running import Ending

PROGRAMS = ("sbatch", "squeue", "scancel")
ASK_SECONDS = 5.0
"""Between two questions to SLURM's controller, which has other users too."""
LATE_SECONDS = 60.0
"""How long a file that a node has written may take to be seen here: shared file systems keep what they knew a while."""


def submit(recipe: Recipe, launch: Launch, ask: float = ASK_SECONDS) -> Ending:
    """Writes the batch script, hands it to SLURM and waits for the job, whose exit code comes back.

    A job of an earlier start of this stage that was left behind is waited for instead, for two jobs would write one
    state: until it ends if it does the same, and before the new one is handed in if its recipe was another one.

    SIGTERM and SIGINT tell the ranks to save and end; a second one cancels the job. `ask`: seconds between two looks.

    Raises:
        LaunchError: SLURM's programs are not on this machine, or the job was refused.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise LaunchError(
                f"{program} is not on PATH: run this on a login node of the cluster, or print the script with "
                "`--launcher print --as slurm`"
            )
    folder = recipe.root / "runs" / "launch"
    note = folder / f"{job_name(recipe)}.job"
    with _stopping() as requests:
        left = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else None
        if left is not None and _is_there(left["id"]):
            ending = _join(left["id"], left["recipe"] == recipe.identity(), note, requests, ask)
            if ending is not None:
                return ending
        script = folder / f"{job_name(recipe)}.sh"
        folder.mkdir(parents=True, exist_ok=True)
        script.write_text(slurm_script(recipe, launch), encoding="utf-8")
        job = _hand_in(script, recipe.root)
        note.write_text(json.dumps({"id": job, "recipe": recipe.identity()}), encoding="utf-8")
        _tell(f"job {job} was handed in; its log is {folder / f'{job_name(recipe)}-{job}.log'}")
        return _wait(job, note, requests, ask)


def _join(job: str, same: bool, note: Path, requests: list[int], ask: float) -> Ending | None:
    """Waits for what an earlier start left behind; None if the stage has to be handed in after it."""
    if same:
        _tell(f"job {job} of an earlier start is still there, and is waited for")
        ending = _wait(job, note, requests, ask)
        return ending if requests or not ending.code else None
    _tell(f"job {job} of an earlier start is still there with another recipe: it is ended before this one is handed in")
    _ask_to_stop(job, at_once=False)
    ending = _wait(job, note, requests, ask)
    return ending if requests else None


def _hand_in(script: Path, root: Path) -> str:
    done = subprocess.run(
        ["sbatch", "--parsable", str(script.relative_to(root))], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LaunchError(f"sbatch refused {script}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout.strip().split(";")[0]  # after it comes the cluster's name, where there are several


def _is_there(job: str) -> bool:
    """Whether a job waits or runs; a controller that does not answer is no sign of its end."""
    done = subprocess.run(
        ["squeue", "--noheader", "--format=%T", "--jobs", job], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return "Invalid job id" not in done.stderr
    return bool(done.stdout.strip())


def _wait(job: str, note: Path, requests: Sequence[int], ask: float) -> Ending:
    handed_on = 0
    while _is_there(job):
        for number in range(handed_on, len(requests)):
            _ask_to_stop(job, at_once=number > 0)
        handed_on = len(requests)
        time.sleep(ask)
    left = note.with_name(f"{job}.code")  # by the job's script
    code = _code(left, LATE_SECONDS if not requests else 2 * ask)
    left.unlink(missing_ok=True)
    note.unlink(missing_ok=True)
    if code is None:
        _tell(f"job {job} is gone and left no exit code: it was cancelled, or its node failed; its log says more")
        code = 1
    return Ending(code, len(requests))


def _ask_to_stop(job: str, at_once: bool) -> None:
    """The ranks finish their step and save, in their own time; a job that still waits for nodes is cancelled."""
    commands = [["scancel", job]]
    if not at_once:
        commands = [["scancel", "--state=PENDING", job], ["scancel", "--signal=TERM", job]]
    for command in commands:
        subprocess.run(command, capture_output=True, check=False)  # of a job that has just ended it complains


def _code(path: Path, patience: float) -> int | None:
    end = time.monotonic() + patience
    while True:
        if path.is_file() and (text := path.read_text(encoding="utf-8").strip()):
            return int(text)
        if time.monotonic() > end:
            return None
        time.sleep(0.5)


@contextlib.contextmanager
def _stopping() -> Iterator[list[int]]:
    """Requests to stop that have come, in a list that grows."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals are somebody else's
        yield received
        return

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
