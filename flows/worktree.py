"""The worktree that scheduled runs work in: one folder that stays, at a pinned commit, clean, with DVC's cache shared.

Hold the lock of the folder (flows/lock.py) from before `prepare` until the results are committed: at another commit the
next run would change what this one reads. The lock's file may be there before the worktree is.

What a run makes there: dvc.lock, data/pipeline.yaml, records/, and what git ignores (outputs, scratch/, runs/). At the
same commit the next run continues with all of it. At another commit dvc.lock, data/pipeline.yaml and adopted
checkpoints become the commit's own; outputs stay for DVC to compare, and so do records that were never committed: each
is named by the content it tells of, and DVC may bring that content back from its cache without running the stage again.
"""

import contextlib
from pathlib import Path

import yaml

from flows.adopted import checkout_adopted
from flows.errors import FlowError
from fusion.checkouts import CheckoutError, add_worktree, git, git_folder, resolve_commit, share_storage
from fusion.errors import FusionError
from fusion.launchers.jobs import living_jobs

MADE_BY_RUNS = ("dvc.lock", "data/pipeline.yaml", "records")
"""What a run changes of the files in git."""

FOLDER = "worktrees/runs"
"""Where it is, below the checkout, when nobody says otherwise. git and DVC leave the folder out."""

MARK = "fusion-commits"
"""In git's own folder of the worktree: the commits that may be checked out there, the newest first."""


def prepare(repository: Path, commit: str, folder: Path | None = None) -> Path:
    """Brings `folder` to `commit` of `repository`; makes it where it is missing. Returns its absolute path.

    Args:
        repository: a checkout; it is read, and never changed.
        commit: a hash, a tag or a branch, resolved in `repository`. The worktree is detached: no branch moves.
        folder: the worktree; `FOLDER` if left out.

    Raises:
        FlowError: there is no such commit; `folder` is something else than a worktree made here; or somebody worked in
            it: files of the code differ from the commit, or another commit is checked out. Nothing is changed then.
    """
    folder = (folder or repository / FOLDER).absolute()
    try:
        wanted = resolve_commit(repository, commit)
        if not (folder / ".git").exists():
            add_worktree(repository, wanted, folder, MARK)
            checkout_adopted(folder)
            return folder
        _check_owner(repository, folder)
        # A git that was killed leaves its lock. Whoever holds the worktree's lock is alone here.
        (git_folder(folder) / "index.lock").unlink(missing_ok=True)
        _check_untouched(folder)
        _switch(folder, wanted)
        share_storage(repository, folder)
        checkout_adopted(folder)
    except CheckoutError as error:
        raise FlowError(str(error)) from error
    return folder


def changed_files(folder: Path) -> dict[str, str]:
    """Path -> git's two letters, for all that differs from the commit and all that is new and not ignored."""
    fields = git(folder, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames").split("\0")
    return {field[3:]: field[:2] for field in fields if field}


def made_by_runs(path: str) -> bool:
    """Whether a path, relative to the worktree, is one of those that runs write."""
    return path in MADE_BY_RUNS or path.startswith("records/")


def _mark(folder: Path, *commits: str) -> None:
    (git_folder(folder) / MARK).write_text("\n".join(commits) + "\n", encoding="utf-8")


def _check_owner(repository: Path, folder: Path) -> None:
    """The folder is a worktree of this repository, and one that was made here."""
    if git_folder(folder, common=True) != git_folder(repository, common=True):
        raise FlowError(f"{folder} is a checkout of another repository than {repository}: name another folder")
    mark = git_folder(folder) / MARK
    if not mark.is_file():
        raise FlowError(f"{folder} is a checkout that was not made for runs, so none works in it: name another folder")
    head = git(folder, "rev-parse", "HEAD").strip()
    if head not in mark.read_text(encoding="utf-8").split():
        raise FlowError(
            f"somebody checked out {head[:12]} in {folder}: take what you need from there, then remove it with "
            f"`git worktree remove --force {folder}`; the next run makes it anew"
        )


def _check_untouched(folder: Path) -> None:
    foreign = [path for path in changed_files(folder) if not made_by_runs(path)]
    if foreign:
        names = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise FlowError(
            f"{folder} belongs to runs, but somebody changed {names}: move that to a checkout of your own, then "
            f"`git -C {folder} checkout -- .` or remove the files"
        )


def _switch(folder: Path, wanted: str) -> None:
    """Checks `wanted` out over what runs made; at the commit that is there already, keeps it."""
    head = git(folder, "rev-parse", "HEAD").strip()
    changed = changed_files(folder)
    if head == wanted:
        if "dvc.lock" in changed and not _readable(folder / "dvc.lock"):
            _restore(folder, changed, ["dvc.lock"])
        return
    try:
        jobs = living_jobs(folder)
    except FusionError as error:
        raise FlowError(str(error)) from error
    for name, job in jobs.items():
        raise FlowError(
            f"{folder} stays at {head[:12]}: job {job} ({name}) is still at work there; wait for it, or end it with "
            f"`scancel --signal=TERM {job}`"
        )
    _mark(folder, wanted, head)
    _restore(folder, changed, [path for path in changed if not path.startswith("records/") or changed[path] != "??"])
    coming = set(git(folder, "ls-tree", "-r", "-z", "--name-only", wanted, "records").split("\0"))
    for path in changed:
        if path in coming:
            (folder / path).unlink(missing_ok=True)  # The same record, which has been committed meanwhile.
    git(folder, "checkout", "--quiet", "--detach", wanted)
    _mark(folder, wanted)


def _restore(folder: Path, changed: dict[str, str], paths: list[str]) -> None:
    """Puts `paths` back as the commit has them; one that it has not is removed."""
    known = [path for path in paths if changed[path] != "??"]
    if known:
        git(folder, "checkout", "--quiet", "HEAD", "--", *known)
    for path in set(paths) - set(known):
        (folder / path).unlink(missing_ok=True)


def _readable(path: Path) -> bool:
    """Whether DVC can read the lock file; a run that was killed while writing it leaves half of one."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    with contextlib.suppress(FileNotFoundError, yaml.YAMLError, UnicodeDecodeError, Invalid):
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(path.read_text(encoding="utf-8")))
        return True
    return False
