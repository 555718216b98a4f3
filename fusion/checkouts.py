"""Git and DVC of a checkout: asking git, and further worktrees at a commit that share DVC's cache and remotes.

A worktree of git has no `.dvc/config.local`, so by itself it would have a cache of its own and know no remote that only
this machine's settings name. `share_storage` gives it those of the checkout it belongs to.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from fusion.errors import FusionError

QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false")
"""No hooks: `dvc install` sets one that runs `dvc checkout` whenever git checks something out."""


class CheckoutError(FusionError):
    """A commit or a folder is not what it has to be; the message says which, and what to do."""


def git(folder: Path, *arguments: str, **environment: str) -> str:
    """git's standard output. Raises `CheckoutError` with the first line that it says. Nothing is ever asked for."""
    command = ["git", "-C", str(folder), *QUIET, *arguments]
    variables = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **environment}
    try:
        run = subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise CheckoutError("git is not installed, or not on PATH") from None
    if run.returncode:
        said = [line for line in run.stderr.splitlines() if line.strip()]
        raise CheckoutError(f"git {arguments[0]} in {folder}: {said[0] if said else f'exit code {run.returncode}'}")
    return run.stdout


def resolve_commit(folder: Path, name: str) -> str:
    """The full hash of a commit, a tag or a branch; raises `CheckoutError` when there is none of that name."""
    try:
        return git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    except CheckoutError:
        raise CheckoutError(
            f"{folder} has no commit, tag or branch `{name}`: if it was made elsewhere, run `git fetch --all --tags`"
        ) from None


def top_of(folder: Path) -> Path:
    """The folder of the checkout around `folder`; raises `CheckoutError` when there is none."""
    return Path(git(folder, "rev-parse", "--show-toplevel").strip())


def git_folder(folder: Path, *, common: bool = False) -> Path:
    """Where git keeps what belongs to this checkout alone, or to all worktrees together."""
    which = "--git-common-dir" if common else "--git-dir"
    return (folder / git(folder, "rev-parse", which).strip()).resolve()


def worktrees(folder: Path) -> list[Path]:
    """All checkouts of the repository whose folders are there, the first one included."""
    return [path for path in _registered(folder) if path.is_dir()]


def add_worktree(repository: Path, commit: str, folder: Path, mark: str) -> None:
    """A new worktree in `folder`, detached at `commit`. It is there whole or not at all.

    A file `mark` with the commit is put into git's own folder of the worktree, to know later what it was made for.

    A `scratch/` folder that is already there, and nothing else, is taken over: a lock may lie in it. Raises
    `CheckoutError` when `folder` holds anything else.
    """
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if (folder.exists() and not folder.is_dir()) or set(there) - {"scratch"}:
        raise CheckoutError(f"{folder} is in the way and is no worktree of {repository}: name another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        git(repository, "worktree", "remove", "--force", "--force", str(partial))
    partial.parent.mkdir(parents=True, exist_ok=True)
    # Forced, because git still knows a worktree whose folder somebody removed by hand.
    git(repository, "worktree", "add", "--force", "--detach", str(partial), commit)
    share_storage(repository, partial)
    (git_folder(partial) / mark).write_text(f"{commit}\n", encoding="utf-8")
    if there:
        (folder / "scratch").rename(partial / "scratch")
    if folder.is_dir():
        folder.rmdir()
    if folder.resolve() in _registered(repository):
        git(repository, "worktree", "remove", "--force", "--force", str(folder))
    git(repository, "worktree", "move", str(partial), str(folder))


def _registered(repository: Path) -> list[Path]:
    fields = git(repository, "worktree", "list", "--porcelain", "-z").split("\0")
    return [Path(field.removeprefix("worktree ")) for field in fields if field.startswith("worktree ")]


def share_storage(repository: Path, folder: Path) -> None:
    """Gives the worktree `folder` the cache and the remotes that `repository` has now, in its `.dvc/config.local`.

    They go before what the commit's own `.dvc/config` says: an old commit may name a remote that is no more. Secrets of
    the repository's `.dvc/config.local` come along, into a file that only this user can read and git ignores.
    """
    from dvc.config import Config, ConfigError, merge

    try:
        source = Config(str(repository / ".dvc"))
        settings: dict[str, Any] = {}
        for level in ("repo", "local"):
            merge(settings, source.load_one(level))
        settings["cache"]["dir"] = str(cache_folder(repository, settings["cache"].get("dir")))
        kept = {name: settings.get(name, {}) for name in ("core", "cache", "remote")}
        for remote in kept["remote"].values():
            for key in ("url", "keyfile", "credentialpath", "configpath"):
                if key in remote:
                    remote[key] = str(remote[key])  # Absolute, and no more relative to the file it stood in.
        path = folder / ".dvc/config.local"
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        with Config(str(folder / ".dvc")).edit("local") as local:
            merge(local, kept)
    except ConfigError as error:
        raise CheckoutError(f"DVC's settings in {repository}/.dvc cannot be used: {error}") from error


def cache_folder(repository: Path, configured: str | None) -> Path:
    """DVC's cache of a checkout: what its settings say, or else `.dvc/cache`."""
    return Path(configured) if configured else (repository / ".dvc/cache").resolve()


def run_here(folder: Path) -> dict[str, str]:
    """The environment in which `fusion` and `python -m flows...` run the code of `folder`, not of the checkout that is
    installed: with its packages, but the folder goes before them.
    """
    commands = str(Path(sys.executable).parent)
    before = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join([str(folder.resolve()), *before]),
    }
