"""Work that continues where it was killed: files that only grow, and one small file that says how much of them counts.

The state lies in scratch/, because DVC empties a stage's outputs before it runs again, under a key made of everything
that decides the result. `save` writes `state.json` aside and renames it: whenever the process dies, the state is the
last save, and what was appended after it is cut off. The stage deletes it when its outputs are there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from fusion.data.errors import DataError
from fusion.files import flush_to_disk
from fusion.hashing import file_sha256, json_sha256

_STATE = "state.json"
_LOCK = ".lock"
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Resumable:
    """State of one piece of work; a context manager that closes its files and lets go of its lock.

    `state` is what the last `save` was given, {} at the start. Names of files are relative to the state's folder.
    """

    def __init__(
        self, place: Path, inputs: Mapping[str, Any], save_seconds: float, lock: IO[bytes] | None = None
    ) -> None:
        """Opens the state of these `inputs` in `place`, and removes that of any others.

        Args:
            place: the folder in scratch/ that belongs to this piece of work alone.
            inputs: everything that decides the result, as JSON can say it.
            save_seconds: how often `due` says so. A save costs a flush of what was written to the disk.
            lock: what `sole_process` gave for `place`, if this process is in it already.

        Raises:
            DataError: another process is at the same work.
        """
        self._place = place
        self._lock = None if lock is not None else _lock(place)
        self.folder = place / json_sha256(inputs)[:16]
        for other in place.iterdir():
            if other.name not in (_LOCK, self.folder.name):
                shutil.rmtree(other)
        self.folder.mkdir(exist_ok=True)
        self._open: dict[str, IO[bytes]] = {}
        self._closed: dict[str, int] = {}
        self._save_seconds = save_seconds
        self._saved_at = time.monotonic()
        self.state, self._facts, self._sizes = self._read()
        self.resumed = bool(self.state)
        self._cut()

    def path(self, name: str) -> Path:
        """Where the file `name` lies."""
        return self.folder / name

    def append(self, name: str) -> IO[bytes]:
        """The file `name`, positioned behind what the last save had of it."""
        if name not in self._open:
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open[name] = path.open("ab")
        return self._open[name]

    def close(self, name: str) -> None:
        """Closes a file that does not grow any more; the next save has all of it."""
        file = self._open.pop(name)
        file.flush()
        self._closed[name] = file.tell()
        file.close()

    def adopt(self, name: str) -> None:
        """The next save has the file `name` as it is now, although it was not written through `append`."""
        self._closed[name] = self.path(name).stat().st_size

    def make(self, name: str, write: Callable[[IO[bytes]], None]) -> Path:
        """The file `name`: what `write` writes into it, made once, however often the work is killed after that."""
        if name not in self._sizes:
            write(self.append(name))
            self.close(name)
            if self.due():
                self.save(self.state)
        return self.path(name)

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """The value of `make()`, as JSON can say it: made once, however often the work is killed after that."""
        if name not in self._facts:
            self._facts[name] = make()
            if self.due():
                self._write()
        return self._facts[name]

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._saved_at >= self._save_seconds

    def save(self, state: Mapping[str, Any]) -> None:
        """From here on the work continues with `state` and the files as they are now."""
        self.state = dict(state)
        for name, file in self._open.items():
            file.flush()
            os.fsync(file.fileno())
            self._sizes[name] = file.tell()
        for name in self._closed:
            flush_to_disk(self.path(name))
        self._sizes |= self._closed
        self._closed = {}
        self._write()

    def end(self, state: Mapping[str, Any]) -> None:
        """All is appended; saved only if the work was long enough to have been saved before, or it is time to."""
        if self.resumed or self.due():
            self.save(state)
        for file in self._open.values():
            file.close()
        self._open.clear()

    def delete(self) -> None:
        """Removes the state: the outputs are there."""
        shutil.rmtree(self._place)

    def _write(self) -> None:
        document = {"facts": self._facts, "files": self._sizes, "state": self.state}
        partial = self.path(f".{_STATE}")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(document, file, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path(_STATE))
        flush_to_disk(self.folder)
        self.resumed = True
        self._saved_at = time.monotonic()

    def _read(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
        try:
            document = json.loads(self.path(_STATE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}, {}, {}  # none, or one that a disk has damaged: the work starts anew
        sizes: dict[str, int] = document["files"]
        for name, size in sizes.items():
            path = self.path(name)
            if not path.is_file() or path.stat().st_size < size:
                return {}, {}, {}  # somebody took a part of it away: what is left is of no use
        return document["state"], document["facts"], sizes

    def _cut(self) -> None:
        """Removes what was appended after the last save."""
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if not path.is_file() or name == _STATE:
                continue
            if name not in self._sizes:
                path.unlink()
            elif path.stat().st_size > self._sizes[name]:
                os.truncate(path, self._sizes[name])

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes files and its own lock; the state stays for the next start."""
        for file in self._open.values():
            file.close()
        self._open.clear()
        if self._lock is not None:
            self._lock.close()


@contextmanager
def sole_process(place: Path) -> Iterator[IO[bytes]]:
    """Only one process at a time is inside, on all machines that see the folder `place`; leaves no empty folder.

    To be entered before anything is written or removed: a second start must not touch what the first one is making.

    Raises:
        DataError: another process is at the same work.
    """
    lock = _lock(place)
    try:
        yield lock
    finally:
        if _holds(lock, place) and os.listdir(place) == [_LOCK]:
            shutil.rmtree(place, ignore_errors=True)
        lock.close()


def _holds(lock: IO[bytes], place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(place / _LOCK))
    except FileNotFoundError:
        return False


def code_sha256(parts: Iterable[str], packages: Mapping[str, str]) -> str:
    """The identity of the code in `parts` (files and folders of the package `fusion`) and of `packages`' versions.

    State that older code has written is not continued by newer code.
    """
    top = Path(__file__).parents[2]
    found: dict[str, str] = {}
    for part in parts:
        files = sorted((top / part).rglob("*.py")) if (top / part).is_dir() else [top / part]
        found |= {path.relative_to(top).as_posix(): file_sha256(path) for path in files}
    return json_sha256({"files": found, "packages": dict(packages)})


def link_file(source: Path, target: Path) -> None:
    """Gives `source` the second name `target`; a copy where the disk has no such names, or is another one."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)


def _lock(place: Path) -> IO[bytes]:
    """Held by one process; the system lets go of it however that process ends."""
    while True:
        place.mkdir(parents=True, exist_ok=True)
        try:
            file = (place / _LOCK).open("ab")
        except FileNotFoundError:
            continue  # deleted by the process that has just finished
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _holds(file, place):
                return file
        except BlockingIOError:
            file.close()
            raise DataError(f"another process is at the same work (it holds {place / _LOCK}): wait for it") from None
        file.close()
