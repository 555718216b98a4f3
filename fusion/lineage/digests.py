"""Hashing many files at once: the threads share the cores, because hashing does not hold the interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fusion.hashing import file_sha256
from fusion.lineage.files import Hasher, files_below
from fusion.progress import Progress

PROGRESS_BYTES = 1 << 30
"""Less than this is hashed without a word."""


def hash_files(paths: Iterable[Path], label: str = "hashing") -> dict[Path, str]:
    """sha256 of each file; the largest are begun first, so that no core waits for the last one."""
    sizes = {path: path.stat().st_size for path in dict.fromkeys(paths)}
    ordered = sorted(sizes, key=lambda path: -sizes[path])
    total = sum(sizes.values())
    found: dict[Path, str] = {}
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        if total < PROGRESS_BYTES:
            return dict(zip(ordered, pool.map(file_sha256, ordered), strict=True))
        with Progress(label, "MB", total / 1e6) as progress:
            for path, digest in zip(ordered, pool.map(file_sha256, ordered), strict=True):
                found[path] = digest
                progress.advance(round(sizes[path] / 1e6), sum(sizes[one] for one in found) / 1e6)
    return found


class ReadyHasher(Hasher):
    """A `Hasher` whose files are hashed beforehand, all together."""

    def __init__(self, root: Path) -> None:
        """Hashes nothing yet."""
        super().__init__(root)
        self.hashed_bytes = 0

    def prepare(self, paths: Iterable[str], label: str = "hashing") -> None:
        """Hashes the files at or below `paths`, relative to the root; what is not there is passed over."""
        files = []
        for path in paths:
            full = self._root / path
            files += [full] if full.is_file() else [full / name for name in files_below(full)]
        new = [file for file in files if str(file) not in self._known]
        self.hashed_bytes += sum(file.stat().st_size for file in new)
        self._known |= {str(file): digest for file, digest in hash_files(new, label).items()}

    def files(self, path: str) -> dict[str, str]:
        """Relative path -> sha256 of each file of the folder, or {"": sha256} of the file, at `path`."""
        full = self._root / path
        if full.is_file():
            return {"": self._file(full)}
        return {name: self._file(full / name) for name in sorted(files_below(full))}
