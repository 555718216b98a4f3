"""The SLURM jobs that were handed in from a project's folder: what is written down of them, and which are alive."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from fusion.launchers.errors import LaunchError

FOLDER = Path("runs/launch")


@dataclass(frozen=True)
class Note:
    """What is written down of a job, before it is handed in.

    Attributes:
        tag: the job's comment, by which it is found when its number could not be written down any more.
        recipe: the identity of what it trains.
        job: its number; None until `sbatch` has said it.
    """

    tag: str
    recipe: str
    job: str | None = None

    @classmethod
    def read(cls, path: Path) -> "Note | None":
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".aside")
        aside.write_text(json.dumps(vars(self)), encoding="utf-8")
        aside.replace(path)

    def living(self, patient: bool = False) -> str | None:
        """The number of the job if it waits or runs. `patient`: see `squeue`."""
        if self.job is not None:
            return self.job if is_there(self.job, patient) else None
        for line in squeue("--user", str(os.getuid()), "--format=%i %k", patient=patient).splitlines():
            job, _, comment = line.strip().partition(" ")
            if comment.strip() == self.tag:
                return job
        return None


def living_jobs(root: Path) -> dict[str, str]:
    """Name -> number of the jobs that were handed in from this folder and wait or run.

    Raises:
        LaunchError: one was handed in, and SLURM cannot be asked for it here.
    """
    found = {}
    for path in sorted((root / FOLDER).glob("*.job")):
        note = Note.read(path)
        if note is None or _is_our_own(note):
            continue
        if shutil.which("squeue") is None:
            raise LaunchError(
                f"{path} tells of a job that may still be at work, and squeue is not on PATH to ask for it: run this "
                "on a login node of the cluster, or remove that file when the job has ended"
            )
        if (job := note.living()) is not None:
            found[path.stem] = job
    return found


def _is_our_own(note: Note) -> bool:
    """Whether this process is part of that job, whose number may not be written down yet."""
    own = os.environ.get("SLURM_JOB_ID")
    return own is not None and note.job in (own, None)


def squeue(*words: str, patient: bool) -> str:
    """What SLURM tells of jobs. `patient`: a controller that does not answer is asked until it does.

    Raises:
        LaunchError: it does not answer, and nobody is patient.
    """
    told = False
    while True:
        done = subprocess.run(["squeue", "--noheader", *words], capture_output=True, text=True, check=False)
        if not done.returncode:
            return done.stdout
        if "Invalid job id" in done.stderr:
            return ""
        if not patient:
            raise LaunchError(f"SLURM cannot be asked whether a job is at work here: {done.stderr.strip()}")
        if not told:
            tell(f"squeue: {done.stderr.strip()}; it is asked again until it answers")
        told = True
        time.sleep(1.0)


def is_there(job: str, patient: bool) -> bool:
    """Whether a job waits or runs. `patient`: see `squeue`."""
    return bool(squeue("--format=%T", "--jobs", job, patient=patient).strip())


def tell(text: str) -> None:
    """One line for whoever watches."""
    print(text, file=sys.stderr, flush=True)
