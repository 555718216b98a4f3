"""The archives of a source: opened when one is asked for, a few of them at a time, and what is wrong with one told."""

import errno
import lzma
import os
import resource
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fusion.data.errors import DataError
from fusion.data.store.zips import ZipFile, is_zip

# What the archive libraries raise for damage, depending on where it is: in a header, in packed data, at a cut.
DAMAGE = (
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
_MOST_OPEN = 64
"""A process may often have 1,024 files open, on some systems 256, and a data set has more archives."""


class Tar:
    """A tar whose members are known by the places of their data."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("rb")

    def read(self, place: int, size: int) -> bytes:
        """`size` bytes from `place` on."""
        return os.pread(self._file.fileno(), size, place)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Archives:
    """Archives by their numbers in `paths`; those that were asked for last are open."""

    def __init__(self, paths: list[Path], most_open: int = _MOST_OPEN) -> None:
        """Opens none, but looks at each, to see later whether it is still the same.

        Raises:
            DataError: the system does not let one be looked at.
        """
        self._paths = paths
        self._known = [_looks(path) for path in paths]
        self._most = most_open
        self._open: OrderedDict[int, Tar | ZipFile] = OrderedDict()

    def get(self, number: int) -> Tar | ZipFile:
        """An archive, good until another one is asked for.

        Raises:
            DataError: it cannot be opened, or has changed.
        """
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if len(self._open) >= self._most:
            self._open.popitem(last=False)[1].close()
        path = self._paths[number]
        # Where its members lie is known from before: in another file there may be other pictures at the same places.
        if _looks(path) != self._known[number]:
            raise DataError(f"{path} has changed while pictures were read from it: run `fusion ingest` again")
        with damage_named(path):
            self._open[number] = ZipFile(path) if is_zip(path) else Tar(path)
        return self._open[number]

    def close(self) -> None:
        """Closes all."""
        while self._open:
            self._open.popitem()[1].close()


def _looks(path: Path) -> tuple[int, int]:
    """Size and the second of the last change: finer times are not the same everywhere."""
    with damage_named(path):
        facts = path.stat()
    return facts.st_size, int(facts.st_mtime)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turns what goes wrong in opening or listing the archive at `path` into a `DataError`."""
    try:
        yield
    except (*DAMAGE, MemoryError) as error:
        if isinstance(error, OSError):
            no_damage_named(path, error)
        kind = "zip" if is_zip(path) else "tar"
        told = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as a {kind} archive: {told}. Get the file again") from error


def no_damage_named(path: Path, error: OSError) -> None:
    """Does nothing if `error` may say something about the content of the file at `path`.

    Raises:
        DataError: the system did not open it, for a reason that has nothing to do with its content.
    """
    if error.errno == errno.EMFILE:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        told = f"this process has {most:,} files open and may not have more. Raise the limit with `ulimit -n`"
    elif error.errno == errno.ENFILE:
        told = "the machine has as many files open as it can. End what else runs, or raise the limit of the system"
    elif error.errno in (errno.EACCES, errno.EPERM):
        told = "its permissions, or those of a folder above it, keep this user from reading it. Change them"
    else:
        return
    raise DataError(f"{path} cannot be opened: {told}; the file itself may be sound") from error
