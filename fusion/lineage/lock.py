"""dvc.lock and DVC's cache, read directly: which object holds which file of an output, whatever DVC remembers of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.lineage.errors import LineageError

DIRECTORY = ".dir"


@dataclass(frozen=True)
class Entry:
    """A path in dvc.lock: MD5 as DVC writes it (`.dir` behind that of a folder's listing), bytes, number of files."""

    path: str
    md5: str
    size: int | None
    files: int | None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.md5.endswith(DIRECTORY)


@dataclass(frozen=True)
class Locked:
    """A stage in dvc.lock: what DVC ran last, with what."""

    name: str
    command: str
    deps: Mapping[str, Entry]
    outs: Mapping[str, Entry]
    params: Mapping[str, Mapping[str, Any]]


def read_lock(root: Path) -> dict[str, Locked]:
    """The stages of `root`/dvc.lock, and those of the .dvc files below checkpoints/, which `fusion adopt` writes.

    Raises:
        LineageError: there is no dvc.lock, or it is not what DVC writes.
    """
    path = root / "dvc.lock"
    if not path.is_file():
        raise LineageError(f"{path} is not here: run the command in the project's folder, after `dvc repro`")
    try:
        document = _yaml(path)
        stages = {name: _locked(name, entry) for name, entry in document["stages"].items()}
        for file in sorted((root / "checkpoints").glob("**/*.dvc")):
            folder = file.parent.relative_to(root).as_posix()
            outs = _yaml(file)["outs"]
            entries = _entries([{**out, "path": f"{folder}/{out['path']}"} for out in outs])
            name = file.relative_to(root).as_posix()
            stages[name] = Locked(name, "", {}, entries, {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LineageError(f"{path} is not what DVC writes ({error!r}): get it back with git") from error
    return stages


def _yaml(path: Path) -> Any:
    """By DVC's own reader: 1e-08 is a number in its YAML, and a text in that of others."""
    from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml

    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except YAMLFileCorruptedError as error:
        raise ValueError(str(error)) from error


def _locked(name: str, entry: Mapping[str, Any]) -> Locked:
    command = entry["cmd"]
    text = command if isinstance(command, str) else "\n".join(command)
    params = {str(file): dict(values) for file, values in entry.get("params", {}).items()}
    return Locked(name, text, _entries(entry.get("deps", [])), _entries(entry.get("outs", [])), params)


def _entries(items: list[dict[str, Any]]) -> dict[str, Entry]:
    found = {}
    for item in items:
        if item.get("hash", "md5") != "md5" or not isinstance(item["md5"], str):
            raise ValueError(f"{item['path']} has no MD5")
        found[str(item["path"])] = Entry(str(item["path"]), item["md5"], item.get("size"), item.get("nfiles"))
    return found


class Cache:
    """The objects of DVC's cache of a repository."""

    def __init__(self, folder: Path) -> None:
        """`folder`: as `dvc cache dir` tells."""
        self.folder = folder
        self._listings: dict[str, dict[str, str]] = {}

    def object(self, md5: str) -> Path:
        """Where the object lies, or would lie."""
        return self.folder / "files" / "md5" / md5[:2] / md5[2:]

    def files(self, entry: Entry) -> dict[str, str]:
        """Relative path -> MD5 of each file of an output, {"": MD5} of a single file.

        Raises:
            LineageError: the listing of a folder is missing or damaged; the message names the object.
        """
        if not entry.is_folder:
            return {"": entry.md5}
        if entry.md5 not in self._listings:
            path = self.object(entry.md5)
            try:
                data = path.read_bytes()
            except OSError as error:
                raise LineageError(f"cache object {entry.md5} (the listing of {entry.path}) is missing") from error
            if hashlib.md5(data, usedforsecurity=False).hexdigest() + DIRECTORY != entry.md5:
                raise LineageError(f"cache object {entry.md5} (the listing of {entry.path}) is damaged")
            self._listings[entry.md5] = {item["relpath"]: item["md5"] for item in json.loads(data)}
        return self._listings[entry.md5]


def listing_md5(files: Mapping[str, str]) -> str:
    """DVC's MD5 of a folder with these files (relative path -> MD5)."""
    items = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(items, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + DIRECTORY


def cache_of(root: Path) -> Cache:
    """The cache that the repository at `root` is set up with."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            return Cache(Path(repo.cache.local.path).parent.parent)
    except DvcException as error:
        raise LineageError(f"{root} is no DVC repository that can be read: {error}") from error


@contextlib.contextmanager
def tree_at(commit: str, root: Path) -> Iterator[Path]:
    """A folder with the repository as it was at `commit`, without data; it is removed at the end.

    Raises:
        LineageError: git does not know the commit.
    """
    with tempfile.TemporaryDirectory(prefix="fusion-tree-") as name:
        folder = Path(name) / "tree"
        for command in (
            ["git", "clone", "--quiet", "--shared", "--no-checkout", str(root.resolve()), str(folder)],
            ["git", "-C", str(folder), "checkout", "--quiet", "--detach", commit],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise LineageError(f"git has no tree of {commit}: {done.stderr.strip()}")
        yield folder
