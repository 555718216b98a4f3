"""Which of DVC's objects are needed: by the commits of every branch and tag, by every worktree, as it is now.

The hashes stand in dvc.lock and in `.dvc` files, so they are read from there, each version of such a file once. What
DVC itself would say needs each commit's dvc.yaml resolved, a second for each commit, and is the same.
"""

import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fusion.checkouts import QUIET, CheckoutError, git
from fusion.storage.errors import StorageError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Needed:
    """Hash -> the output that it is of and who needs it, for messages. A folder's hash ends with `.dir`."""

    objects: dict[str, str] = field(default_factory=dict)
    commits: int = 0
    worktrees: int = 0

    def add(self, document: Any, who: str) -> None:
        """All outputs of a dvc.lock or a `.dvc` file."""
        for out in _outputs(document):
            for entry in (out, *(out.get("files") or ())):
                if isinstance(hash_ := entry.get("md5"), str):
                    self.objects.setdefault(hash_, f"{out.get('path', '?')} ({who})")


def _outputs(document: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(document, dict):
        return
    for stage in (document, *(document.get("stages") or {}).values()):
        yield from (out for out in (stage or {}).get("outs") or () if isinstance(out, dict))


def needed_objects(repository: Path, tips_only: bool = False) -> Needed:
    """What may not be removed.

    Args:
        repository: any checkout of it.
        tips_only: only what branches, tags and worktrees are at now, not the commits before.

    Raises:
        StorageError: a file that names objects cannot be read, or a worktree that git knows is not there: then nobody
            can tell what is needed.
    """
    needed = Needed()
    for folder, head in _worktrees(repository):
        if not folder.is_dir():
            raise StorageError(
                f"git knows a worktree {folder}, which is not there, so nobody can tell what is needed in it: mount "
                "it, or run `git worktree prune` if it is gone"
            )
        needed.worktrees += 1
        for file in _named_files(folder):
            needed.add(_parsed(file.read_bytes(), str(file)), f"worktree {folder}, at {head[:12]}")
    commits = _commits(repository, tips_only)
    needed.commits = len(commits)
    blobs: dict[str, str] = {}
    for commit in commits:
        for line in git(repository, "ls-tree", "-r", "-z", "--full-tree", commit).split("\0"):
            facts, _, path = line.partition("\t")
            if path and _names_objects(path):
                blobs.setdefault(facts.split()[2], f"{path} of commit {commit[:12]}")
    for (_, where), content in zip(blobs.items(), _contents(repository, blobs), strict=True):
        needed.add(_parsed(content, where), where.rpartition(" of ")[2])
    return needed


def _names_objects(path: str) -> bool:
    return path.endswith(".dvc") or path.rpartition("/")[2] == "dvc.lock"


def _worktrees(repository: Path) -> list[tuple[Path, str]]:
    """Folder and commit of each; a bare repository has none of its own."""
    found = []
    for block in git(repository, "worktree", "list", "--porcelain", "-z").split("\0\0"):
        facts = dict(line.partition(" ")[::2] for line in block.split("\0") if line)
        if "HEAD" in facts:
            found.append((Path(facts["worktree"]), facts["HEAD"]))
    return found


def _named_files(folder: Path) -> list[Path]:
    """The files of a worktree that name objects, committed or not."""
    listed = git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--full-name").split("\0")
    paths = [folder / path for path in dict.fromkeys(listed) if path and _names_objects(path)]
    return [path for path in paths if path.is_file()]


def _commits(repository: Path, tips_only: bool) -> list[str]:
    """All refs (branches here and elsewhere, tags, stashes), the commits of all worktrees, and what is before them."""
    refs = git(repository, "for-each-ref", "--format=%(objectname)^{commit}").split()
    tips = []
    for name in refs:
        try:
            tips.append(git(repository, "rev-parse", "--verify", "--quiet", name).strip())
        except CheckoutError:
            continue  # A tag of something that is no commit.
    tips += [head for _, head in _worktrees(repository) if set(head) != {"0"}]
    tips = list(dict.fromkeys(tips))
    if tips_only or not tips:
        return tips
    # Every change of these files on every side of a merge: the states that some commit has.
    arguments = ("rev-list", "--full-history", *tips, "--", "*.dvc", "dvc.lock", "**/dvc.lock")
    return list(dict.fromkeys([*tips, *git(repository, *arguments).split()]))


def _contents(repository: Path, blobs: Iterable[str]) -> Iterator[bytes]:
    """The contents of blobs, in one process."""
    names = list(blobs)
    command = ["git", "-C", str(repository), *QUIET, "cat-file", "--batch"]
    run = subprocess.run(command, input="\n".join(names).encode() + b"\n", capture_output=True, check=True)
    position = 0
    for name in names:
        end = run.stdout.index(b"\n", position)
        header = run.stdout[position:end].split()
        if header[-1] == b"missing":
            raise StorageError(f"git's object {name} is missing: run `git fsck`")
        size = int(header[2])
        yield run.stdout[end + 1 : end + 1 + size]
        position = end + 1 + size + 1


def _parsed(content: bytes, where: str) -> Any:
    try:
        return yaml.load(content, Loader=LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StorageError(
            f"{where} cannot be read, so nobody can tell which data it needs; nothing was removed: {error}"
        ) from error
