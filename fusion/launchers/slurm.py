"""A training stage as a SLURM job: handed in, waited for, told to stop, and found again by a later start."""

import contextlib
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fusion.launch_settings import Launch
from fusion.launchers.errors import LaunchError
from fusion.launchers.jobs import FOLDER, Note, is_there, living_jobs, squeue, tell
from fusion.launchers.scripts import job_name, slurm_script
from fusion.train.recipe import Recipe
from fusion.train.running import Ending

PROGRAMS = ("sbatch", "squeue", "scancel")
ASK_SECONDS = 5.0
"""Between two questions to SLURM's controller, which has other users too."""
LATE_SECONDS = 60.0
"""How long a file that a node has written may take to be seen here: shared file systems keep what they knew a while."""


@dataclass
class _Requests:
    """Requests to stop that have come, and how to be woken by one."""

    numbers: list[int] = field(default_factory=list)
    woken: threading.Event = field(default_factory=threading.Event)

    def at_once(self) -> bool:
        """Ctrl-C a second time. SIGTERM again is what a supervisor does to everything that is left."""
        return len(self.numbers) > 1 and self.numbers[-1] == signal.SIGINT


def submit(recipe: Recipe, launch: Launch, ask: float = ASK_SECONDS) -> Ending:
    """Writes the batch script, hands it to SLURM and waits for the job, whose exit code comes back.

    A job of an earlier start of this stage that was left behind is waited for instead, for two jobs would write one
    state: until it ends if it does the same, and before the new one is handed in if its recipe was another one.

    SIGTERM and SIGINT tell the ranks to save and end, a second SIGINT cancels the job. `ask`: seconds between looks.

    Raises:
        LaunchError: SLURM's programs are not on this machine, or the job was refused.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise LaunchError(
                f"{program} is not on PATH: run this on a login node of the cluster, or print the script with "
                "`--launcher print --as slurm`"
            )
    identity, folder = recipe.identity(), recipe.root / FOLDER
    note = folder / f"{job_name(recipe)}.job"
    with _stopping() as requests:
        left = Note.read(note)
        if left is not None and (job := left.living(patient=True)) is not None:
            ending = _join(job, left.recipe == identity, note, requests, ask)
            if ending is not None:
                return ending
        script = folder / f"{job_name(recipe)}.sh"
        folder.mkdir(parents=True, exist_ok=True)
        script.write_text(slurm_script(recipe, launch), encoding="utf-8")
        made = Note(f"fusion-{uuid.uuid4().hex}", identity)
        made.write(note)
        job = _hand_in(script, recipe.root, made.tag)
        Note(made.tag, identity, job).write(note)
        tell(f"job {job} was handed in; its log is {folder / f'{job_name(recipe)}-{job}.log'}")
        return _wait(job, note, requests, ask)


def check_no_job(recipe: Recipe) -> None:
    """Raises `LaunchError` if a job trains this stage: ranks that are started another way would write its state too."""
    if job := living_jobs(recipe.root).get(job_name(recipe)):
        raise LaunchError(
            f"job {job} trains {recipe.stage} of {recipe.variant} and writes the same state: wait for it with "
            f"`--launcher slurm`, or end it with `scancel --signal=TERM {job}`"
        )


def _join(job: str, same: bool, note: Path, requests: _Requests, ask: float) -> Ending | None:
    """Waits for what an earlier start left behind; None if the stage has to be handed in after it."""
    if same:
        tell(f"job {job} of an earlier start is still there, and is waited for")
        ending = _wait(job, note, requests, ask)
        return ending if requests.numbers or not ending.code else None
    tell(f"job {job} of an earlier start is still there with another recipe: it is ended before this one is handed in")
    ending = _wait(job, note, requests, ask, stop=True)
    return ending if requests.numbers else None


def _hand_in(script: Path, root: Path, tag: str) -> str:
    # A session of its own: Ctrl-C in a terminal would end it when the job may be in already.
    done = subprocess.run(
        ["sbatch", "--parsable", "--comment", tag, str(script.relative_to(root))],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    if done.returncode:
        raise LaunchError(f"sbatch refused {script}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout.strip().split(";")[0]  # after it comes the cluster's name, where there are several


def _wait(job: str, note: Path, requests: _Requests, ask: float, stop: bool = False) -> Ending:
    told = False
    while is_there(job, patient=True):
        if requests.at_once():
            _scancel(job)
        elif (stop or requests.numbers) and not told:
            told = _ask_to_stop(job)
        requests.woken.wait(ask)
        requests.woken.clear()
    left = note.with_name(f"{job}.code")  # by the job's script
    code = _code(left, 2 * ask if stop or requests.numbers else LATE_SECONDS)
    left.unlink(missing_ok=True)
    note.unlink(missing_ok=True)
    if code is None:
        tell(f"job {job} is gone and left no exit code: it was cancelled, or its node failed; its log says more")
        code = 1
    return Ending(code, len(requests.numbers))


def _ask_to_stop(job: str) -> bool:
    """Tells the ranks to finish their step and save, in their own time. Whether that has arrived.

    A job that has no ranks yet has nothing to save: it is cancelled.
    """
    steps = [line.split(".")[-1] for line in squeue("--steps", "--format=%i", "--jobs", job, patient=True).split()]
    if any(step.isdigit() for step in steps):
        return _scancel("--signal=TERM", job)
    return _scancel(job)


def _scancel(*words: str) -> bool:
    return subprocess.run(["scancel", *words], capture_output=True, check=False).returncode == 0


def _code(path: Path, patience: float) -> int | None:
    end = time.monotonic() + patience
    while True:
        if path.is_file() and (text := path.read_text(encoding="utf-8").strip()):
            return int(text)
        if time.monotonic() > end:
            return None
        time.sleep(0.5)


@contextlib.contextmanager
def _stopping() -> Iterator[_Requests]:
    """Requests to stop that come while the block runs."""
    received = _Requests()
    if threading.current_thread() is not threading.main_thread():  # signals are somebody else's
        yield received
        return

    def note(number: int, frame: FrameType | None) -> None:
        received.numbers.append(number)
        received.woken.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
