"""A stand-in of a few lines for SLURM's programs, which does what its manual says of them, with real processes.

A job's id is the number of the process that leads its group; PENDING jobs are those that wait for the file `nodes`.
"""

import dataclasses
import os
import sys
from pathlib import Path

from fusion.launchers.slurm import submit
from fusion.settings import load_settings
from fusion.train.recipe import make_recipe
from fusion.train.running import Ending

ROOT = Path(__file__).parents[2]
_PROGRAMS = {
    # sbatch --parsable --comment TAG SCRIPT: starts it as the batch step of a job with two nodes, and prints its id.
    "sbatch": """
[ "$1 $2" = "--parsable --comment" ] || exit 64
export SLURM_SUBMIT_DIR=$PWD SLURM_JOB_NODELIST='localhost,localhost' SLURM_STATE=STATE
setsid bash -c 'until [ -e "$SLURM_STATE/nodes" ]; do sleep 0.1; done
touch "$SLURM_STATE/$$.running"; export SLURM_JOB_ID=$$; exec bash "$0"' "$4" \\
    >> STATE/job.log 2>&1 < /dev/null &
echo $3 > STATE/$!.comment; [ ! -e STATE/slow ] || sleep 60; echo $!
""",
    # squeue --noheader: state of a job, its steps, or all jobs of a user with their comments.
    "squeue": """
[ ! -e STATE/down ] || { echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }
case "$*" in
"--noheader --format=%T --jobs "*)
    kill -0 "$4" 2>/dev/null || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
    if [ -e "STATE/$4.running" ]; then echo RUNNING; else echo PENDING; fi ;;
"--noheader --steps --format=%i --jobs "*)
    [ ! -e "STATE/$5.steps" ] || echo "$5.0"; echo "$5.batch" ;;
"--noheader --user "*" --format=%i %k")
    for job in STATE/*.comment; do
        id=$(basename $job .comment); ! kill -0 $id 2>/dev/null || echo "$id $(cat $job)"
    done ;;
*) exit 64 ;;
esac
""",
    # scancel [--signal=TERM] ID: a signal goes to the steps and not to the batch shell.
    "scancel": """
[ ! -e STATE/down ] || exit 1
case "$1" in
--signal=TERM) kill -TERM $(cat "STATE/$2.steps") ;;
*) kill -KILL -- "-$1" $(cat "STATE/$1.steps") ;;
esac
""",
    # scontrol show hostnames LIST
    "scontrol": """
[ "$1 $2" = "show hostnames" ] || exit 64
tr , '\\n' <<< "$3"
""",
    # srun [options] COMMAND: one task a node, which knows the number of its node; one that fails ends the others.
    "srun": """
while [ "${1#--}" != "$1" ]; do shift; done
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
echo $first $second > "STATE/$SLURM_JOB_ID.steps"
for task in 1 2; do wait -n || { code=$?; kill $first $second 2>/dev/null; wait; exit $code; }; done
""",
}


def install(folder: Path) -> dict[str, str]:
    """Puts the programs and their state into `folder`; the environment in which they are found."""
    state = folder / "state"
    state.mkdir(parents=True)
    (state / "nodes").touch()
    for name, text in _PROGRAMS.items():
        program = folder / name
        program.write_text(f"#!/bin/bash{text.replace('STATE', str(state))}", encoding="utf-8")
        program.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def jobs(folder: Path) -> list[int]:
    """The jobs that were handed in."""
    return sorted(int(path.stem) for path in (folder / "state").glob("*.comment"))


def submitting(root: Path, setup: list[str], partition: str | None = None, **params: float) -> Ending:
    """Hands stage 1 of micro in; the job runs the lines of `setup` before its own."""
    settings = load_settings(ROOT / "params.yaml")
    made = make_recipe(settings, "micro", "stage1", root)
    made.manifest.parent.mkdir(parents=True, exist_ok=True)
    made.manifest.touch()
    made.parent.mkdir(parents=True, exist_ok=True)
    made = dataclasses.replace(made, settings=made.settings.model_copy(update=params))
    slurm = settings.launch.slurm.model_copy(update={"partition": partition})
    return submit(made, settings.launch.model_copy(update={"setup": setup, "slurm": slurm}), ask=0.1)


def waiting(said: Path, environment: dict[str, str], root: Path, setup: list[str], params: dict[str, float]) -> None:
    """The same in a process of its own, whose exit code is the job's; what it says goes to a file."""
    os.environ.update(environment)
    with said.open("w", encoding="utf-8", buffering=1) as sys.stderr:
        sys.exit(submitting(root, setup, **params).code)
