"""The content hash of a file or a folder.

All hashes are sha256: DVC's own MD5 is no evidence against tampering.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from fusion.hashing import file_sha256
from fusion.lineage.errors import LineageError

IGNORED_FOLDERS = frozenset({"__pycache__"})
"""Folders that never count as content: byte code differs between interpreters and appears by merely importing."""


class Hasher:
    """Content hashes of files and folders below `root`, each file read once: for a moment in which nothing changes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, str] = {}

    def exists(self, path: str) -> bool:
        """Whether anything is at `path`, which is relative to the root."""
        return (self._root / path).exists()

    def sha256(self, path: str) -> str:
        """The content hash of the file or folder at `path`; raises `LineageError` when nothing is there.

        A folder's hash is the sha256 over one line `<file's sha256>  <relative path>` per file, sorted by path: the
        format of `sha256sum`, so that anybody can check it without this project. Empty folders do not count.
        """
        full = self._root / path
        if full.is_file():
            return self._file(full)
        if not full.is_dir():
            raise LineageError(f"{path} is not there, so it cannot be hashed")
        lines = [f"{self._file(full / name)}  {name}\n" for name in sorted(files_below(full))]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def _file(self, path: Path) -> str:
        key = str(path)
        if key not in self._known:
            self._known[key] = file_sha256(path)
        return self._known[key]


def sha256_path(path: Path) -> str:
    """The content hash of one file or folder, as `Hasher.sha256` gives it."""
    return Hasher(path.parent).sha256(path.name)


def files_below(folder: Path) -> Iterator[str]:
    """The relative paths of all files below `folder`, unordered, without what `IGNORED_FOLDERS` names."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name not in IGNORED_FOLDERS]
        for name in files:
            yield (Path(parent) / name).relative_to(folder).as_posix()
