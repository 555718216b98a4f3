"""Tar files that are equal for equal content, with the byte range of every member's data."""

import tarfile
from pathlib import Path
from types import TracebackType
from typing import IO

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


def _header(name: str, size: int) -> bytes:
    """The header of a member with zero times and owners; a short plain name gives one block of the ustar format."""
    encoded = name.encode()
    if not name.isascii() or len(encoded) > 100:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT)
    # The library takes as long for a header as drawing a small picture does; this is the same block, put together.
    fields = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"00000000000\0"
    start, end = encoded.ljust(100, b"\0") + fields, b"0" + bytes(100) + b"ustar\x0000"
    checksum = sum(start) + sum(end) + 8 * ord(" ")
    return (start + b"%06o\0 " % checksum + end).ljust(_BLOCK, b"\0")


class TarWriter:
    """Writes members one after the other; a context manager."""

    def __init__(self, path: Path | IO[bytes]) -> None:
        """`path`: a new file, or one opened behind the members that it has already; that one stays open."""
        self._own = isinstance(path, Path)
        self._file: IO[bytes] = path.open("wb") if isinstance(path, Path) else path
        self.size = self._file.tell()
        """Bytes written so far, the end mark not counted."""

    def add(self, name: str, data: bytes) -> int:
        """Appends a member and returns the offset of its data in the file."""
        header = _header(name, len(data))
        padding = -len(data) % _BLOCK
        self._file.write(header + data + bytes(padding))
        offset = self.size + len(header)
        self.size = offset + len(data) + padding
        return offset

    def close(self) -> None:
        """Writes the end mark, up to a full record as tar does, and closes the file if it was opened here."""
        self._file.write(_END + bytes(-(self.size + len(_END)) % tarfile.RECORDSIZE))
        if self._own:
            self._file.close()

    def __enter__(self) -> "TarWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._own:
            self._file.close()
