"""`fusion restore COMMIT`: code, data and checkpoints of a commit in a folder beside the work, and all of it verified.

The code is a worktree of git at that commit; the data comes from DVC's cache and, where that lacks it, from the remote;
and every output is hashed with sha256 and compared with the run records of that commit. DVC's own MD5 only finds files.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from fusion.checkouts import add_worktree, git, git_folder, resolve_commit, share_storage, top_of
from fusion.lineage.ancestry import ancestry_of
from fusion.lineage.files import Hasher
from fusion.lineage.records import RECORDS, Record, read_records
from fusion.lineage.stages import Stage, resolve_stages
from fusion.progress import Progress
from fusion.storage.errors import StorageError

FOLDER = "worktrees"
MARK = "fusion-restored"
TOLD = 10


@dataclass(frozen=True)
class Output:
    """One output that DVC keeps: `path` below the project's root, size in bytes where dvc.lock tells it."""

    path: str
    stage: str
    size: int


def restore(
    commit: Annotated[str, typer.Argument(metavar="COMMIT", help="A commit, a tag or a branch.")],
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help=f"Where; {FOLDER}/<commit> if left out.")] = None,
    remote: Annotated[
        str | None, typer.Option(metavar="NAME", help="A remote of DVC; the default one if left out.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Only outputs at or below this path; more than once.")
    ] = None,
) -> None:
    """Bring code, data and checkpoints of a commit back into a folder of their own, and verify them."""
    print(restore_commit(Path.cwd(), commit, to, remote, only or []))


def restore_commit(
    folder: Path, commit: str, to: Path | None = None, remote: str | None = None, only: list[str] | None = None
) -> str:
    """Restores and verifies; returns what to tell. Started again after an interruption, it goes on.

    Raises:
        StorageError: data is neither in the cache nor in the remote, an output has another sha256 than its record, or
            has no record; the message names them.
    """
    repository = top_of(folder)
    wanted = resolve_commit(repository, commit)
    target = (to or repository / FOLDER / wanted[:12]).absolute()
    _place(repository, wanted, target)
    stages = resolve_stages(target)
    outputs = [one for one in _outputs(target, stages) if _chosen(one.path, only or [])]
    if not outputs:
        where = f" at {', '.join(only)}" if only else ""
        raise StorageError(f"commit {wanted[:12]} names no output{where}: no stage had run there")
    name = _remote(target, remote)
    absent = missing(target, outputs)
    if absent and name:
        # What is missing then is found by looking; DVC has said on the terminal why.
        _dvc(target, "fetch", "--remote", name, *([one.path for one in outputs] if only else []))
        absent = missing(target, outputs)
    if absent:
        place = f"whole in the remote `{name}`" if name else "in a remote, because DVC has no default one"
        raise StorageError(
            f"{len(absent)} objects of commit {wanted[:12]} are neither in the cache nor {place}:{_named(absent)}\n"
            "Push them from a machine that has them (`dvc push`), or restore another part with --only"
        )
    if code := _dvc(target, "checkout", "--force", *(one.path for one in outputs)):
        damaged = missing(target, outputs)  # DVC takes a damaged object out of the cache.
        said = f"; these objects are damaged where they came from:{_named(damaged)}" if damaged else ""
        raise StorageError(f"dvc checkout in {target} ended with {code} and said why above{said}")
    count, size = verify(target, stages, outputs)
    lines = [
        f"restored {wanted[:12]} in {target}",
        f"{count} outputs, {size / 1e6:,.1f} MB, sha256 as in their records",
    ]
    for name in stages:
        if name.startswith("package@") and not only and any(one.stage == name for one in outputs):
            lines.append(f"{name}: lineage digest {ancestry_of(name, target).digest}")
    return "\n".join([*lines, f"to work there: cd {_shown(target)} && make env"])


def _named(absent: dict[str, str]) -> str:
    lines = [f"{path} ({hash_})" for path, hash_ in absent.items()]
    return "".join(
        f"\n  {line}" for line in [*lines[:TOLD], *([f"and {len(lines) - TOLD} more"] if lines[TOLD:] else [])]
    )


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _place(repository: Path, commit: str, target: Path) -> None:
    """The worktree; one that was restored before must still be what it was."""
    if not (target / ".git").exists():
        return add_worktree(repository, commit, target, MARK)
    mark = git_folder(target) / MARK
    if not mark.is_file() or git_folder(target, common=True) != git_folder(repository, common=True):
        raise StorageError(
            f"{target} is a checkout that was not made by `fusion restore`: name another folder with --to"
        )
    if (there := git(target, "rev-parse", "HEAD").strip()) != commit:
        raise StorageError(f"{target} is at commit {there[:12]}, not {commit[:12]}: name another folder with --to")
    changed = git(target, "status", "--porcelain").splitlines()
    if changed:
        raise StorageError(f"somebody worked in {target} ({changed[0].strip()}): name another folder with --to")
    share_storage(repository, target)


def _outputs(root: Path, stages: dict[str, Stage]) -> Iterator[Output]:
    """What dvc.lock and `.dvc` files name. Entries of dvc.lock without a stage in dvc.yaml are of earlier settings."""
    lock = root / "dvc.lock"
    locked = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages") or {} if lock.is_file() else {}
    for name in stages:
        for out in locked.get(name, {}).get("outs") or ():
            yield Output(out["path"], name, int(out.get("size") or 0))
    for path in git(root, "ls-files", "-z", "--", "*.dvc").split("\0"):
        if path:
            document = yaml.safe_load((root / path).read_text(encoding="utf-8"))
            for out in document.get("outs") or ():
                yield Output((Path(path).parent / out["path"]).as_posix(), path, int(out.get("size") or 0))


def _chosen(path: str, only: list[str]) -> bool:
    chosen = [one.strip("/") for one in only]
    return not chosen or any(path == one or path.startswith(one + "/") for one in chosen)


def missing(root: Path, outputs: list[Output]) -> dict[str, str]:
    """Path -> DVC's hash, of all files and folders of `outputs` that are not in the cache."""
    from dvc.repo import Repo
    from dvc_data.hashfile.tree import Tree

    wanted = {one.path for one in outputs}
    absent: dict[str, str] = {}
    with Repo(str(root)) as repo:
        for out in repo.index.outs:
            path = Path(out.fspath).relative_to(repo.root_dir).as_posix()
            if path not in wanted or not out.hash_info:
                continue
            if not out.cache.exists(out.hash_info.value):
                absent[path] = out.hash_info.value
            elif out.hash_info.isdir:
                for key, _, hash_info in Tree.load(out.cache, out.hash_info):
                    if not out.cache.exists(hash_info.value):
                        absent["/".join((path, *key))] = hash_info.value
    return absent


def _remote(root: Path, asked: str | None) -> str | None:
    """The remote to fetch from, None without one; raises `StorageError` when DVC's settings have none of that name."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        name, known = asked or repo.config["core"].get("remote"), sorted(repo.config["remote"])
    if name and name not in known:
        raise StorageError(f"DVC has no remote `{name}`; there are: {', '.join(known) or 'none'}")
    return name


def _dvc(root: Path, *arguments: str) -> int:
    """Runs DVC, with its own progress on the terminal; returns its exit code."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    return subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode


def verify(root: Path, stages: dict[str, Stage], outputs: list[Output]) -> tuple[int, int]:
    """Hashes every output and compares it with the records; returns how many there are, and their bytes.

    Raises:
        StorageError: names each output whose content is in no record, and each stage without any.
    """
    by_stage: dict[str, list[Output]] = {}
    for one in outputs:
        by_stage.setdefault(one.stage, []).append(one)
    hasher, faults, done = Hasher(root), [], 0
    total = sum(one.size for one in outputs)
    with Progress("verify", "outputs", total) as progress:
        for stage, members in by_stage.items():
            records = _records(root, stage, members)
            for one in members:
                hash_ = hasher.sha256(one.path)
                records = [record for record in records if record.outputs.get(one.path) == hash_]
                done += one.size
                progress.advance(1, done)
                if not records:
                    faults.append(f"{one.path} (sha256 {hash_[:16]}) is in no record of {stage}")
                    break
    if faults:
        raise StorageError(f"{len(faults)} outputs do not verify:\n  " + "\n  ".join(faults[:TOLD]))
    return len(outputs), total


def _records(root: Path, stage: str, members: list[Output]) -> list[Record]:
    """The records of a stage; for a `.dvc` file, of whatever says that it took these outputs in."""
    if not stage.endswith(".dvc"):
        return read_records(stage, root)
    paths = {one.path for one in members}
    found: list[Any] = []
    for folder in sorted((root / RECORDS).glob("adopt-*")):
        found += [record for record in read_records(folder.name, root) if paths <= set(record.outputs)]
    return found
