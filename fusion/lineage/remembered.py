"""Content hashes of large inputs, remembered from one start of a stage to the next.

A stage that is started again would otherwise hash all that it reads again: for the shards of a published set a quarter
of an hour before its first step. What is known stands in the scratch folder, is never an output, and serves records
alone: audit and verification hash everything themselves.
"""

import json
import os
import time
from pathlib import Path

from fusion.files import write_json
from fusion.hashing import file_sha256
from fusion.lineage.files import Hasher

MEMORY = "scratch/hashes/inputs.json"
LARGE = 64 << 20
"""Smaller files are read each time."""
SETTLED_SECONDS = 10.0
"""A file that was changed later than this before it is hashed may be changed again within one tick of its file system's
clock, and would look the same: it is not remembered."""


class RememberingHasher(Hasher):
    """A `Hasher` that reads a large file again only if anything about it differs from when it was read."""

    def __init__(self, root: Path) -> None:
        """Reads what is remembered below `root`."""
        super().__init__(root)
        self._memory = _read(root / MEMORY)
        self._learnt: dict[str, list[int | str]] = {}

    def _file(self, path: Path) -> str:
        key = str(path)
        if key in self._known:
            return self._known[key]
        looks = _looks(path)
        if looks is None:
            return super()._file(path)
        name = path.relative_to(self._root).as_posix()
        *seen, sha256 = self._memory.get(name, [None])
        if seen == looks:
            self._known[key] = str(sha256)
            return self._known[key]
        settled = max(looks[-2:]) < (time.time() - SETTLED_SECONDS) * 1e9
        found = self._known[key] = file_sha256(path)
        if settled and _looks(path) == looks:
            self._learnt[name] = [*looks, found]
        return found

    def remember(self) -> None:
        """Writes down what was learnt, beside what other stages have meanwhile; files that are gone are forgotten."""
        if not self._learnt:
            return
        known = _read(self._root / MEMORY) | self._learnt
        write_json({name: facts for name, facts in known.items() if self.exists(name)}, self._root / MEMORY)


def _looks(path: Path) -> list[int] | None:
    """What a change of a file changes: device, inode, size, and times of content and of inode; None for a small one.

    Nobody can set the time of the inode, so that a file with its old time of content is noticed as well.
    """
    facts = os.stat(path)
    if facts.st_size < LARGE:
        return None
    return [facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def _read(path: Path) -> dict[str, list[int | str]]:
    """What is remembered. A file that cannot be read is none: everything is hashed again, and it is written anew."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(isinstance(facts, list) and facts for facts in found.values())
    return found if whole else {}
