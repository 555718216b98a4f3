"""Tar files that are equal for equal content, with the byte range of every member's data."""

import io
import tarfile
from pathlib import Path
from types import TracebackType


class TarWriter:
    """Writes members with zero times and owners; a context manager. Names up to 100 bytes stay one header long."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, data: bytes) -> int:
        """Appends a member and returns the offset of its data in the file."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        blocks = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return int(self._tar.offset) - blocks

    @property
    def size(self) -> int:
        """Bytes written so far, the end mark not counted."""
        return int(self._tar.offset)

    def close(self) -> None:
        """Writes the end mark and closes the file."""
        self._tar.close()

    def __enter__(self) -> "TarWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        elif self._tar.fileobj is not None:
            self._tar.fileobj.close()
