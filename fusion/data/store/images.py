"""Pictures read where they lie: in folders, or in tar and zip archives without unpacking them."""

import errno
import stat
from pathlib import Path
from typing import IO

import numpy as np

from fusion.data.store.archives import DAMAGE, Archives, Tar, damage_named, no_damage_named
from fusion.data.store.containers import leads_inside
from fusion.data.store.members import Member, Table, find, make_table
from fusion.data.store.zips import EncryptedError, ZipFile

_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_TOO_MANY_OPEN = {errno.EMFILE, errno.ENFILE}


class ImageError(Exception):
    """A picture cannot be read; `reason` is its code in the ledger."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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
        """Opens no archive, but lists them if there is no `table`.

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
        self._archives = Archives(paths)
        self._stems: dict[str, list[int]] = {}
        for number, path in enumerate(paths):
            self._stems.setdefault(path.stem, []).append(number)
        self._max_bytes = max_bytes

    def read(self, image: str) -> bytes:
        """The bytes of the picture `image`.

        Raises:
            ImageError: with one of the reasons missing-image (nothing holds it), not-a-file (a folder, a device, a link
                in an archive ...), link-outside (of the image folder), image-name-too-long (for a file, and no archive
                holds it), file-too-large, unreadable-image (the system refuses), damaged-archive-member,
                encrypted-archive-member, unsupported-compression, out-of-memory.
            DataError: too many files are open, or an archive cannot be opened.
        """
        too_long: OSError | None = None
        other: str | None = None
        for folder in self._folders:
            try:
                data = self._read_file(folder, image)
            except OSError as error:
                if error.errno in _TOO_MANY_OPEN:
                    no_damage_named(folder / image, error)
                if error.errno != errno.ENAMETOOLONG:
                    raise ImageError("unreadable-image", f"{image}: {error.strerror or error}") from error
                too_long = error
            else:
                if data is not None:
                    return data
                other = other or _no_file(folder / image)
        if (member := self._find(image)) is not None:
            if member.kind is None:
                self._check_size(image, member.size)
                return _read_member(self._archives.get(member.archive), image, member)
            other = other or member.kind
        if too_long is not None:
            raise ImageError("image-name-too-long", f"no file can have a name of {len(image.encode())} bytes: {image}")
        if other is not None:
            raise ImageError("not-a-file", f"{image} is {other}, not a file")
        raise ImageError("missing-image", f"{image} is in no image folder or archive of the source")

    def _find(self, image: str) -> Member | None:
        """The first archive's member that has one of the picture's three names; files before what is none."""
        found = [find(self._table, name) for name in (image, f"images/{image}")]
        stem, _, rest = image.partition("/")
        if rest and stem in self._stems:
            found += [find(self._table, rest, only=number) for number in self._stems[stem]]
        there = (member for member in found if member is not None)
        return min(there, key=lambda member: (member.kind is not None, member.archive), default=None)

    def _read_file(self, folder: Path, image: str) -> bytes | None:
        path = folder / image
        size = file_size(path)
        if size is None:
            return None
        if not leads_inside(path, folder):
            raise ImageError("link-outside", f"{image} is a link that leaves the image folder")
        self._check_size(image, size)
        return path.read_bytes()

    def _check_size(self, image: str, size: int) -> None:
        if size > self._max_bytes:
            told = f"{image} has {size} bytes, more than the {self._max_bytes} a picture may have"
            raise ImageError("file-too-large", told)

    def close(self) -> None:
        """Closes the archives."""
        self._archives.close()


def write_members(containers: list[Path], file: IO[bytes], label: str) -> None:
    """Reads the archives among `containers` through and writes where their members lie, for `ImageStore`.

    Raises:
        DataError: an archive cannot be opened, or its list of members is damaged.
    """
    np.save(file, _make_table(_archives(containers), label))


def _archives(containers: list[Path]) -> list[Path]:
    return [path for path in containers if path.is_file()]


def _make_table(paths: list[Path], label: str) -> Table:
    return make_table(paths, label, damage_named)


def _read_member(archive: Tar | ZipFile, image: str, member: Member) -> bytes:
    try:
        return archive.read(member.place) if isinstance(archive, ZipFile) else archive.read(member.place, member.size)
    except EncryptedError as error:
        raise ImageError("encrypted-archive-member", str(error)) from error
    except NotImplementedError as error:
        raise ImageError("unsupported-compression", f"{image}: {error}") from error
    except MemoryError as error:
        raise ImageError("out-of-memory", f"{image} cannot be unpacked with the memory there is") from error
    except DAMAGE as error:
        raise ImageError("damaged-archive-member", f"{image}: {type(error).__name__}: {error}") from error


def _no_file(path: Path) -> str | None:
    """What is at `path` in the place of a file, or None when nothing is."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        return "a link to itself" if getattr(error, "errno", None) == errno.ELOOP else None
    return "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
