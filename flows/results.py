"""What a run leaves for others: its data in the DVC remote, and dvc.lock and records on a branch of its own."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml

from flows.dvc_push import TRANSIENT_EXIT_CODE
from flows.errors import FlowError
from flows.worktree import MADE_BY_RUNS, changed_files, made_by_runs
from fusion.checkouts import CheckoutError, git, run_here
from fusion.secrecy import mask

BRANCHES = "runs/"
NOBODY = "0" * 40

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_BAR = re.compile(r"Pushing to \S+\s+(\d+)/(\d+) \[\s*([\d:]+)<\s*([\d:?]+),\s*([\d.?]+\S*?)file/s")


class PushError(FlowError):
    """Data did not reach the remote. `retryable`: because of the network, the server or a lock, not of the settings."""

    def __init__(self, message: str, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


def push(
    worktree: Path,
    remote: str | None = None,
    *,
    say: Callable[[str], Any] = print,
    environment: dict[str, str] | None = None,
) -> int:
    """Pushes what the worktree's dvc.lock and .dvc files name and the remote has not; returns the number of files.

    Args:
        worktree: where the run was made.
        remote: a remote of DVC's settings; the default one if left out.
        say: gets one line now and then: files done, rate, time left.
        environment: more variables for the process, for example the run's id, by which it is found after a crash.

    Raises:
        PushError: says DVC's reason. What was uploaded stays, so that another try has less to do.
    """
    command = [sys.executable, "-m", "flows.dvc_push", *(["--remote", remote] if remote else [])]
    own = str(Path(__file__).parents[1])
    variables = {**run_here(worktree), "DVC_IGNORE_ISATTY": "1", **(environment or {})}
    variables["PYTHONPATH"] = f"{own}{os.pathsep}{variables['PYTHONPATH']}"
    process = subprocess.Popen(
        command, cwd=worktree, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdin is not None and process.stdout is not None
    lines: list[str] = []
    told = 0
    try:
        for line in _lines(process.stdout):
            bar = _BAR.search(line)
            if bar is None:
                lines.append(line)
                continue
            share = int(bar[1]) * 10 // max(int(bar[2]), 1)
            if share > told:
                told = share
                say(f"pushing: {bar[1]} of {bar[2]} files in {bar[3]}, {bar[5]} files/s, {bar[4]} left")
    finally:
        process.stdin.close()  # Ends the process, if it is still there.
        process.wait()
    if process.returncode:
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        reason = mask(_reason(errors) if errors else (lines or [f"exit code {process.returncode}"])[-1])
        raise PushError(f"dvc push failed: {reason}", process.returncode == TRANSIENT_EXIT_CODE)
    pushed = [int(match[1]) for line in lines if (match := re.match(r"(\d+) files? pushed", line))]
    return pushed[-1] if pushed else 0


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines as they come; a progress bar ends its own with a carriage return."""
    rest = b""
    while chunk := os.read(stream.fileno(), 65536):
        *whole, rest = re.split(rb"[\r\n]", rest + chunk)
        yield from (text for line in whole if (text := line.decode("utf-8", "replace").strip(" !")))
    if text := rest.decode("utf-8", "replace").strip(" !"):
        yield text


def _reason(errors: list[str]) -> str:
    """The last error says how many files failed, the first one why."""
    return errors[-1] if len(errors) == 1 else f"{errors[-1]} ({errors[0]})"


def commit(worktree: Path, run_id: str, today: str | None = None) -> str | None:
    """Commits what the run made of dvc.lock, data/pipeline.yaml and records/ to `runs/<date>-<run_id>`.

    The worktree, its index and every other branch stay as they are. Called again after a crash, or by a run that made
    the same, it finds the branch that is there.

    Args:
        worktree: where the run was made, at its pinned commit.
        run_id: letters, digits and dashes.
        today: YYYY-MM-DD; in UTC if left out.

    Returns:
        the branch; None when the commit has all of it already.

    Raises:
        FlowError: other files than these differ from the commit: the records would tell of code that nobody can find.
    """
    if not _ID.fullmatch(run_id):
        raise FlowError(f"`{run_id}` cannot be part of a branch's name: letters, digits and dashes only")
    try:
        foreign = [path for path in changed_files(worktree) if not made_by_runs(path)]
        if foreign:
            raise FlowError(
                f"nothing was committed: {', '.join(foreign[:5])} in {worktree} differ from the commit that the run "
                "was to be made from"
            )
        head = git(worktree, "rev-parse", "HEAD").strip()
        tree = _tree(worktree)
        if tree == git(worktree, "rev-parse", "HEAD^{tree}").strip():
            return None
        branches = _branches(worktree)
        same = [name for name in branches if branches[name] == tree and _holds(worktree, name, head)]
        if same:
            return max(same)
        mine = [name for name in branches if name.endswith(f"-{run_id}")]
        branch = mine[0] if mine else f"{BRANCHES}{today or datetime.now(UTC).date().isoformat()}-{run_id}"
        before = git(worktree, "rev-parse", f"refs/heads/{branch}").strip() if mine else NOBODY
        parents = ([before] if mine else []) + ([] if mine and _holds(worktree, branch, head) else [head])
        made = git(
            worktree, "commit-tree", tree, *(part for parent in parents for part in ("-p", parent)),
            "-m", f"Run {run_id}", "-m", _told(worktree, head), **_author(worktree),
        ).strip()  # fmt: skip
        git(worktree, "update-ref", "-m", f"run {run_id}", f"refs/heads/{branch}", made, before)
    except CheckoutError as error:
        raise FlowError(str(error)) from error
    return branch


def _tree(worktree: Path) -> str:
    """The tree of HEAD with the worktree's files of `MADE_BY_RUNS`, made in an index that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        index = str(Path(folder) / "index")
        git(worktree, "read-tree", "HEAD", GIT_INDEX_FILE=index)
        paths = [path for path in MADE_BY_RUNS if (worktree / path).exists()]
        if paths:
            git(worktree, "add", "--all", "--", *paths, GIT_INDEX_FILE=index)
        return git(worktree, "write-tree", GIT_INDEX_FILE=index).strip()


def _branches(worktree: Path) -> dict[str, str]:
    """Branch -> tree, of all branches that runs made."""
    form = "%(refname:lstrip=2) %(tree)"
    lines = git(worktree, "for-each-ref", f"--format={form}", f"refs/heads/{BRANCHES}").splitlines()
    return dict((line.split()[0], line.split()[1]) for line in lines)


def _holds(worktree: Path, branch: str, commit: str) -> bool:
    return commit in git(worktree, "rev-list", f"refs/heads/{branch}", "--max-count=50").split()


def _told(worktree: Path, head: str) -> str:
    """The stages whose entries in dvc.lock the run changed."""
    before = yaml.safe_load(git(worktree, "show", f"{head}:dvc.lock")) if _has_lock(worktree, head) else {}
    path = worktree / "dvc.lock"
    after = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    old, new = ((document or {}).get("stages") or {} for document in (before, after))
    changed = [name for name in new if new[name] != old.get(name)]
    return f"From {head}.\n\n" + ("\n".join(["Stages:", *changed]) if changed else "No stage of dvc.lock changed.")


def _has_lock(worktree: Path, head: str) -> bool:
    return bool(git(worktree, "ls-tree", "--name-only", head, "dvc.lock").strip())


def _author(worktree: Path) -> dict[str, str]:
    """git's own settings where somebody made them; a worker's account often has none."""
    settings = git(worktree, "config", "--list", "--name-only").split()
    who: dict[str, str] = {}
    for role in ("AUTHOR", "COMMITTER"):
        if "user.name" not in settings and f"GIT_{role}_NAME" not in os.environ:
            who[f"GIT_{role}_NAME"] = "fusion"
        if "user.email" not in settings and f"GIT_{role}_EMAIL" not in os.environ:
            who[f"GIT_{role}_EMAIL"] = "fusion@localhost"
    return who
