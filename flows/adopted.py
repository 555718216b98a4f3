"""Adopted checkpoints in the tree that a run works in: git brings the .dvc file, and only DVC the folder that it names.

No stage makes them, so `dvc repro --single-item` neither brings them nor notices that they are others.
"""

import posixpath
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from flows.errors import FlowError
from flows.plan import BUSY, RETRIES, RETRY_SECONDS, dvc_command, stage_environment
from flows.selection import needed_before
from fusion.checkouts import git
from fusion.lineage.stages import Stage

ENDING = ".dvc"


def checkout_adopted(folder: Path) -> None:
    """Brings the adopted checkpoints of worktree `folder` to what its commit says, over what an earlier one had.

    What the cache lacks is fetched from the remote. What cannot be had is left out: that matters to those runs alone
    that read it, and `refuse_unlike_adopted` stops them.
    """
    files = [name for name in git(folder, "ls-files", "-z", "--", f"checkpoints/*{ENDING}").split("\0") if name]
    if files and _dvc(folder, "checkout", "--quiet", "--force", *files):
        _dvc(folder, "fetch", "--quiet", *files)
        _dvc(folder, "checkout", "--quiet", "--force", "--allow-missing", *files)


def refuse_unlike_adopted(selected: Iterable[Stage], stages: Mapping[str, Stage], changed: Mapping[str, str]) -> None:
    """Raises `FlowError` when an adopted checkpoint that the selection comes from is not what its .dvc file says.

    Args:
        changed: name -> what changed, as `dvc status` has it: of a .dvc file, the name is its path.
    """
    chosen = list(selected)
    read = {path for stage in (*chosen, *needed_before(chosen, stages)) for path in stage.deps}
    for file, why in changed.items():
        place = posixpath.normpath(file.removesuffix(ENDING))
        if file.endswith(ENDING) and any(_overlap(place, path) for path in read):
            raise FlowError(
                f"{place} is not what {file} says ({why}): get it with `dvc checkout --force {file}`, if it is not in "
                f"the cache with `dvc pull {file}`; if another checkpoint is meant, use `fusion adopt` and commit"
            )


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _dvc(folder: Path, *arguments: str) -> int:
    """Runs DVC there, again while another DVC has what it needs; its exit code."""
    command = dvc_command("--wait-for-lock", *arguments)
    for tries_left in range(RETRIES, -1, -1):
        run = subprocess.run(command, cwd=folder, env=stage_environment(folder), capture_output=True, text=True)
        if not (run.returncode and tries_left and BUSY.search(run.stderr)):
            break
        time.sleep(RETRY_SECONDS)
    return run.returncode
