"""Where git has what is published: the commit whose dvc.lock and records name it, and the tag that keeps it.

`fusion gc` keeps what any branch or tag needs, so a published model has a tag.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from fusion.checkouts import CheckoutError, git
from fusion.lineage.ancestry import Ancestry
from fusion.lineage.outside import ADOPT
from fusion.publish.errors import PublishError

RUNS = "refs/heads/runs/"
"""Flows commit what their runs made on branches of their own, which hold the commit that is checked out."""
TAGS = "published/"


def committed_in(found: Sequence[Ancestry], root: Path, *more: str) -> str:
    """The commit that has dvc.lock and all these records as they are here: HEAD, or what a flow's run committed on it.

    The .dvc files of adopted checkpoints among them belong to that as well. Raises `PublishError` naming what no such
    commit has.
    """
    records = [record for ancestry in found for record in ancestry.records.values()]
    paths = {record.path for record in records}
    # In dvc.lock stands what stages wrote, and what was adopted in a file of its own.
    paths |= {f"{out}.dvc" for record in records if record.stage.startswith(f"{ADOPT}@") for out in record.outputs}
    wanted = {path: _blob(root / path) for path in sorted({*paths, *(["dvc.lock"] if paths else []), *more})}
    lacking: list[str] = []
    for commit in _candidates(root):
        there = _blobs(root, commit, list(wanted))
        missing = [path for path, blob in wanted.items() if there.get(path) != blob]
        if not missing:
            return commit
        lacking = lacking or missing
    told = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
    what = f"{told} is not committed as it is" if len(lacking) == 1 else f"{told} are not committed as they are"
    raise PublishError(
        f"{what} here, so nobody could find what was published: `git add dvc.lock records checkpoints "
        "data/licence-overrides.yaml` (those that are there), and commit"
    )


def _candidates(root: Path) -> list[str]:
    head = git(root, "rev-parse", "HEAD").strip()
    branches = git(root, "for-each-ref", "--sort=-committerdate", "--contains", head, "--format=%(objectname)", RUNS)
    return list(dict.fromkeys([head, *branches.split()]))


def _blobs(root: Path, commit: str, paths: list[str]) -> dict[str, str]:
    """Path -> blob of those that a commit has."""
    listed = git(root, "ls-tree", "-r", "-z", commit, "--", *paths).split("\0")
    return {line.partition("\t")[2]: line.split()[2] for line in listed if line}


def _blob(path: Path) -> str:
    """What git calls a file's content; empty for one that is not there."""
    if not path.is_file():
        return ""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def tag_commit(variant: str, release: str, commit: str, message: str, root: Path) -> tuple[str, bool]:
    """Sets the tag published/VARIANT/RELEASE unless it is there; its name, and whether it is new.

    A release follows from its content, so a tag that is there names a commit that has the same.
    """
    name = f"{TAGS}{variant}/{release}"
    if git(root, "tag", "--list", name).strip():
        return name, False
    settings = git(root, "config", "--list", "--name-only").split()
    who = {}
    if "user.name" not in settings and "GIT_COMMITTER_NAME" not in os.environ:
        who["GIT_COMMITTER_NAME"] = "fusion"
    if "user.email" not in settings and "GIT_COMMITTER_EMAIL" not in os.environ:
        who["GIT_COMMITTER_EMAIL"] = "fusion@localhost"
    try:
        git(root, "tag", "--annotate", "--no-sign", "--message", message, name, commit, **who)
    except CheckoutError as error:
        raise PublishError(f"everything is published, but the tag {name} could not be set: {error}") from error
    return name, True
