"""Pictures read where they lie: in folders, or in tar and zip archives without unpacking them."""

import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from fusion.data.errors import DataError
from fusion.data.store.members import Table, find, make_table
from fusion.data.store.zips import ZipError, ZipFile

ARCHIVES = (".tar", ".zip")
"""Archives from which a member can be read in place."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Archives from which it cannot: every read would decompress all that comes before."""


# What damage in an archive's headers makes the readers raise.
_DAMAGE = (EOFError, LookupError, OSError, OverflowError, RuntimeError, ValueError, tarfile.TarError, ZipError)
_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


class ImageError(Exception):
    """A picture cannot be read; `reason` is its code in the ledger."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def find_containers(folder: Path, images: tuple[str, ...]) -> list[Path]:
    """The image folders and archives that `images` names below `folder`, archives inside the folders included.

    Raises:
        DataError: one of them is missing, or is an archive that cannot be read in place.
    """
    found: list[Path] = []
    for name in images:
        path = folder / name
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if item.name.endswith((*ARCHIVES, *COMPRESSED)))
            found += [path, *inside]
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(
                f"{path} is missing: the pictures of this source were expected there, as a folder or an archive"
            )
    for path in found:
        if path.is_file() and path.name.endswith(COMPRESSED):
            raise DataError(
                f"{path} is a compressed tar, which cannot be read in place: repack it as a plain .tar (gunzip)"
            )
        if path.is_file() and not path.name.endswith(ARCHIVES):
            raise DataError(f"{path} is neither a folder nor a .tar or .zip archive")
    return found


def file_size(path: Path) -> int | None:
    """Bytes of the file at `path`; None where there is no ordinary file.

    Raises:
        OSError: the system cannot say, for example because the name is longer than it allows.
    """
    try:
        facts = path.stat()
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    except ValueError:
        return None  # a name with a NUL byte
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


class ImageStore:
    """All pictures of a source by their path relative to the image folder.

    A picture `a/b.jpg` is looked for as the file `a/b.jpg` of an image folder, then in each archive as the member
    `a/b.jpg`, `images/a/b.jpg`, or `b.jpg` of the archive `a.tar` or `a.zip`.
    """

    def __init__(self, containers: list[Path], max_bytes: int, table: Path | None = None) -> None:
        """Opens all archives.

        Args:
            containers: image folders and archives, in the order in which they are looked through.
            max_bytes: a larger file is an `ImageError` instead of being read.
            table: a file of `write_members` for these containers; without it the archives are read through now.

        Raises:
            DataError: an archive cannot be opened, or its list of members is damaged.
        """
        self._folders = [path.resolve() for path in containers if path.is_dir()]
        paths = _archives(containers)
        self._table: Table = _make_table(paths, "archives") if table is None else np.load(table, mmap_mode="r")
        self._archives: list[_Tar | ZipFile] = []
        self._stems: dict[str, list[int]] = {}
        for number, path in enumerate(paths):
            self._stems.setdefault(path.stem, []).append(number)
            with _damage_named(path):
                self._archives.append(ZipFile(path) if path.name.endswith(".zip") else _Tar(path))
        self._max_bytes = max_bytes

    def read(self, image: str) -> bytes:
        """The bytes of the picture `image`.

        Raises:
            ImageError: with one of the reasons missing-image (nothing holds it, or only outside the image folder,
                through a link), image-name-too-long (for a file, and no archive holds it), file-too-large,
                unreadable-image (the system refuses), damaged-archive-member, encrypted-archive-member,
                unsupported-compression, out-of-memory.
        """
        too_long: OSError | None = None
        for folder in self._folders:
            try:
                data = self._read_file(folder, image)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise ImageError("unreadable-image", f"{image}: {error.strerror or error}") from error
                too_long = error
            else:
                if data is not None:
                    return data
        if (member := self._find(image)) is not None:
            archive, place, size = member
            self._check_size(image, size)
            return _read_member(self._archives[archive], image, place, size)
        if too_long is not None:
            raise ImageError("image-name-too-long", f"no file can have a name of {len(image.encode())} bytes: {image}")
        raise ImageError("missing-image", f"{image} is in no image folder or archive of the source")

    def _find(self, image: str) -> tuple[int, int, int] | None:
        """Archive, place and size of a picture: of the first archive that has it by one of its three names."""
        found = [find(self._table, name) for name in (image, f"images/{image}")]
        stem, _, rest = image.partition("/")
        if rest and stem in self._stems:
            found += [find(self._table, rest, only=number) for number in self._stems[stem]]
        return min((member for member in found if member is not None), key=lambda member: member[0], default=None)

    def _read_file(self, folder: Path, image: str) -> bytes | None:
        path = folder / image
        size = file_size(path)
        if size is None:
            return None
        if not path.resolve().is_relative_to(folder):
            raise ImageError("missing-image", f"{image} is a link that leaves the image folder")
        self._check_size(image, size)
        return path.read_bytes()

    def _check_size(self, image: str, size: int) -> None:
        if size > self._max_bytes:
            told = f"{image} has {size} bytes, more than the {self._max_bytes} a picture may have"
            raise ImageError("file-too-large", told)

    def close(self) -> None:
        """Closes the archives."""
        for archive in self._archives:
            archive.close()


def write_members(containers: list[Path], file: IO[bytes], label: str) -> None:
    """Reads the archives among `containers` through and writes where their members lie, for `ImageStore`.

    Raises:
        DataError: an archive cannot be opened, or its list of members is damaged.
    """
    np.save(file, _make_table(_archives(containers), label))


def _archives(containers: list[Path]) -> list[Path]:
    return [path for path in containers if path.is_file()]


def _make_table(paths: list[Path], label: str) -> Table:
    return make_table(paths, label, _damage_named)


class _Tar:
    """A tar whose members are known by the places of their data."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("rb")

    def read(self, place: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, place)

    def close(self) -> None:
        self._file.close()


def _read_member(archive: _Tar | ZipFile, image: str, place: int, size: int) -> bytes:
    try:
        return archive.read(place) if isinstance(archive, ZipFile) else archive.read(place, size)
    except ZipError as error:
        raise ImageError(error.reason, str(error)) from error
    except MemoryError as error:
        raise ImageError("out-of-memory", f"{image} cannot be unpacked with the memory there is") from error
    except (OSError, OverflowError, ValueError) as error:
        raise ImageError("damaged-archive-member", f"{image}: {type(error).__name__}: {error}") from error


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (*_DAMAGE, MemoryError) as error:
        kind = "zip" if path.name.endswith(".zip") else "tar"
        told = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as a {kind} archive: {told}. Get the file again") from error
