"""The content hash of a file or a folder, and JSON files that are never seen half written.

All hashes are sha256: DVC's own MD5 is no evidence against tampering.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusion.hashing import file_sha256
from fusion.lineage.errors import LineageError

IGNORED_FOLDERS = frozenset({"__pycache__"})
"""Folders that never count as content: byte code differs between interpreters and appears by merely importing."""


def sha256_path(path: Path) -> str:
    """The content hash of a file or a folder; raises `LineageError` when nothing is there.

    A folder's hash is the sha256 over one line `<file's sha256>  <relative path>` per file, sorted by path: the format
    of `sha256sum`, so that anybody can check it without this project. Empty folders do not count.
    """
    if path.is_file():
        return file_sha256(path)
    if not path.is_dir():
        raise LineageError(f"{path} is not there, so it cannot be hashed")
    lines = [f"{file_sha256(path / name)}  {name}\n" for name in sorted(files_below(path))]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def files_below(folder: Path) -> Iterator[str]:
    """The relative paths of all files below `folder`, unordered, without what `IGNORED_FOLDERS` names."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name not in IGNORED_FOLDERS]
        for name in files:
            yield (Path(parent) / name).relative_to(folder).as_posix()


def write_json(path: Path, document: Any) -> None:
    """Writes `document` for people and for git (sorted keys, indented), aside and then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(document, stream, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
            stream.write("\n")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
