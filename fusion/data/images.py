"""Pictures read where they lie: in folders, or in tar and zip archives without unpacking them."""

import os
import tarfile
import zipfile
from pathlib import Path
from typing import IO

from fusion.data.errors import DataError

ARCHIVES = (".tar", ".zip")
"""Archives from which a member can be read in place."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Archives from which it cannot: every read would decompress all that comes before."""


class MissingImageError(LookupError):
    """No folder or archive of the source holds the picture."""


class TooLargeError(ValueError):
    """The file is larger than a picture may be."""


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


class ImageStore:
    """All pictures of a source by their path relative to the image folder.

    A picture `a/b.jpg` is looked for as the file `a/b.jpg` of an image folder, then in each archive as the member
    `a/b.jpg`, `images/a/b.jpg`, or `b.jpg` of the archive `a.tar` or `a.zip`.
    """

    def __init__(self, containers: list[Path], max_bytes: int) -> None:
        """`max_bytes`: a larger file raises `TooLargeError` instead of being read."""
        self._folders = [path.resolve() for path in containers if path.is_dir()]
        self._archives = [_open_archive(path) for path in containers if path.is_file()]
        self._max_bytes = max_bytes

    def read(self, image: str) -> bytes:
        """The bytes of the picture `image`.

        Raises:
            MissingImageError: nothing holds it, or only outside the image folder (through a link).
            TooLargeError: the file is too large.
        """
        for folder in self._folders:
            path = folder / image
            if path.is_file():
                if not path.resolve().is_relative_to(folder):
                    raise MissingImageError(f"{image} is a link that leaves the image folder")
                self._check_size(image, path.stat().st_size)
                return path.read_bytes()
        for archive in self._archives:
            for name in (image, f"images/{image}", image.removeprefix(f"{archive.stem}/")):
                if name in archive.members:
                    self._check_size(image, archive.size(name))
                    return archive.read(name)
        raise MissingImageError(f"{image} is in no image folder or archive of the source")

    def _check_size(self, image: str, size: int) -> None:
        if size > self._max_bytes:
            raise TooLargeError(f"{image} has {size} bytes, more than the {self._max_bytes} a picture may have")

    def close(self) -> None:
        """Closes the archives."""
        for archive in self._archives:
            archive.close()


class _Tar:
    def __init__(self, path: Path) -> None:
        self.stem = path.stem
        self.members: dict[str, tuple[int, int]] = {}
        self._file: IO[bytes] = path.open("rb")
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    if member.isreg():
                        self.members[member.name.removeprefix("./")] = (member.offset_data, member.size)
                    tar.members = []  # type: ignore[attr-defined]  # the library would keep every header in memory
        except tarfile.TarError as error:
            raise DataError(f"{path} cannot be read as a tar archive: {error}") from error

    def size(self, name: str) -> int:
        return self.members[name][1]

    def read(self, name: str) -> bytes:
        offset, size = self.members[name]
        return os.pread(self._file.fileno(), size, offset)

    def close(self) -> None:
        self._file.close()


class _Zip:
    def __init__(self, path: Path) -> None:
        self.stem = path.stem
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise DataError(f"{path} cannot be read as a zip archive: {error}") from error
        self.members = {item.filename.removeprefix("./"): item for item in self._zip.infolist() if not item.is_dir()}

    def size(self, name: str) -> int:
        return self.members[name].file_size

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(self.members[name])
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise MissingImageError(f"{name} cannot be read from its archive: {error}") from error

    def close(self) -> None:
        self._zip.close()


def _open_archive(path: Path) -> "_Tar | _Zip":
    return _Zip(path) if path.name.endswith(".zip") else _Tar(path)
