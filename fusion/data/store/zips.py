"""Zip archives read in place: their list of members as a stream, and a member by its entry in that list.

The standard library keeps an object of half a kilobyte for every member, in every process that opens the archive; the
archives of a data set have millions. Here a member is known by where its entry stands. Format: PKWARE's APPNOTE.TXT.
"""

import bz2
import lzma
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_END = struct.Struct("<4s4H2LH")
_END_MARK = b"PK\x05\x06"
_END_SPAN = _END.size + 0xFFFF
"""A comment of up to 64 kB may follow the end record."""
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_WINDOW = 1 << 20
_ENCRYPTED, _PATCHED, _STRONG, _UTF8 = 0x1, 0x20, 0x40, 0x800
_BIG = 0xFFFFFFFF
_LZMA_UNKNOWN_SIZE = b"\xff" * 8


class ZipError(Exception):
    """The archive or a member is damaged, encrypted, or packed in a way that is not read."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Entry:
    """One member as the archive's list has it; `header` is where its local header starts."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int
    length: int
    """Bytes of the entry itself."""


class ZipFile:
    """One open archive. Members are read with positions of its list, so several processes can share the list."""

    def __init__(self, path: Path) -> None:
        """Reads the end record alone.

        Raises:
            ZipError: there is none, or it leads outside the file.
        """
        self._file: IO[bytes] = path.open("rb")
        try:
            self._length = self._file.seek(0, 2)
            self._start, self._size, self._shift = self._find_list()
        except BaseException:
            self._file.close()
            raise

    def members(self) -> Iterator[tuple[str, int, int]]:
        """Name, position of the entry and size of every file; in memory is one piece of the list.

        Raises:
            ZipError: the list is damaged.
        """
        at, end = self._start, self._start + self._size
        window, base = b"", at
        while at < end:
            if at - base + _ENTRY.size + 3 * 0xFFFF > len(window) and base + len(window) < end:
                self._file.seek(at)
                window, base = self._file.read(min(_WINDOW, end - at)), at
            entry = _entry(window, at - base)
            if not entry.name.endswith("/"):
                yield entry.name, at, entry.size
            at += entry.length

    def read(self, position: int) -> bytes:
        """The bytes of the member whose entry stands at `position`; never more than the entry says.

        Raises:
            ZipError: with the reason damaged-archive-member, encrypted-archive-member or unsupported-compression.
        """
        self._file.seek(position)
        raw = self._file.read(_ENTRY.size)
        if len(raw) == _ENTRY.size:
            raw += self._file.read(sum(_ENTRY.unpack(raw)[12:15]))
        entry = _entry(raw, 0)
        if entry.flags & _ENCRYPTED:
            raise ZipError("encrypted-archive-member", f"{entry.name} needs a password")
        if entry.flags & (_PATCHED | _STRONG) or entry.method not in _UNPACK:
            raise ZipError("unsupported-compression", f"{entry.name} is packed by method {entry.method}")
        self._file.seek(self._inside(entry.header + self._shift))
        local = self._file.read(_LOCAL.size)
        if len(local) < _LOCAL.size or local[:4] != b"PK\x03\x04":
            raise _damaged(f"{entry.name} has no header where the list of members says")
        fields = _LOCAL.unpack(local)
        self._file.seek(fields[-2] + fields[-1], 1)
        # No method makes a picture much larger; what claims to be is not read.
        if entry.packed > entry.size + entry.size // 64 + 4096:
            raise _damaged(f"{entry.name}: {entry.packed} packed bytes for {entry.size}")
        packed = self._file.read(entry.packed)
        if len(packed) < entry.packed:
            raise _damaged(f"{entry.name} ends behind the end of the archive")
        try:
            data = _UNPACK[entry.method](packed, entry.size)
        except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
            raise _damaged(f"{entry.name}: {type(error).__name__}: {error}") from error
        if len(data) != entry.size or zlib.crc32(data) != entry.crc:
            raise _damaged(f"{entry.name}: the unpacked bytes are not those that were packed")
        return data

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _find_list(self) -> tuple[int, int, int]:
        """Where the list of members starts, its bytes, and what has to be added to the positions in it."""
        tail_at = max(0, self._length - _END_SPAN)
        self._file.seek(tail_at)
        tail = self._file.read()
        found = tail.rfind(_END_MARK)
        if found < 0 or len(tail) - found < _END.size:
            raise _damaged("there is no end record: not a zip archive, or cut off")
        *_, size, offset, _comment = _END.unpack_from(tail, found)
        end = tail_at + found
        wide = self._wide(end)
        if wide is not None:
            size, offset, end = wide
        # Archives with something in front, such as a self-extractor, count from where the archive begins.
        shift = end - size - offset
        if shift < 0 or end - size < 0:
            raise _damaged("the end record leads outside the file")
        return end - size, size, shift

    def _wide(self, end: int) -> tuple[int, int, int] | None:
        """Size and offset of the list and its end from the records for archives of 4 GB and more, if there are any."""
        if end < _LOCATOR.size:
            return None
        self._file.seek(end - _LOCATOR.size)
        mark, disk, _, disks = _LOCATOR.unpack(self._file.read(_LOCATOR.size))
        if mark != b"PK\x06\x07":
            return None
        if disk != 0 or disks > 1:
            raise _damaged("the archive spans several files")
        at = self._inside(end - _LOCATOR.size - _END64.size)
        self._file.seek(at)
        fields = _END64.unpack(self._file.read(_END64.size))
        if fields[0] != b"PK\x06\x06":
            return None
        return fields[8], fields[9], at

    def _inside(self, position: int) -> int:
        if not 0 <= position < self._length:
            raise _damaged(f"a position leads outside the file: {position}")
        return position


def _entry(window: bytes, at: int) -> _Entry:
    """The entry that starts at `at` of a piece of the list."""
    if len(window) - at < _ENTRY.size or window[at : at + 4] != b"PK\x01\x02":
        raise _damaged("the list of members is damaged")
    fields = _ENTRY.unpack_from(window, at)
    flags, method, crc, packed, size = fields[5], fields[6], fields[9], fields[10], fields[11]
    name_length, extra_length, comment_length, header = fields[12], fields[13], fields[14], fields[18]
    start = at + _ENTRY.size
    raw, extra = window[start : start + name_length], window[start + name_length : start + name_length + extra_length]
    # An entry may have its wide numbers in an extra field, each of them only if the narrow one is full.
    wide = [packed, size, header]
    if _BIG in wide:
        numbers = _wide_numbers(extra)
        for which in (1, 0, 2):
            if wide[which] == _BIG and numbers:
                wide[which] = numbers.pop(0)
    name = raw.decode("utf-8" if flags & _UTF8 else "cp437", "surrogateescape" if flags & _UTF8 else "strict")
    name = name.partition("\0")[0]
    length = _ENTRY.size + name_length + extra_length + comment_length
    return _Entry(name, flags, method, crc, wide[0], wide[1], wide[2], length)


def _wide_numbers(extra: bytes) -> list[int]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            count = min(length, len(extra) - at - 4) // 8
            return list(struct.unpack_from(f"<{count}Q", extra, at + 4))
        at += 4 + length
    return []


def _stored(packed: bytes, size: int) -> bytes:
    return packed


def _inflate(packed: bytes, size: int) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)


def _bunzip(packed: bytes, size: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(packed, size + 1)


def _unlzma(packed: bytes, size: int) -> bytes:
    # Two bytes of version, two of length, then the properties: behind them the older format has a size, zip has none.
    length = struct.unpack_from("<H", packed, 2)[0] if len(packed) >= 4 else -1
    if length != 5:
        raise ValueError("no properties of LZMA")
    older = packed[4:9] + _LZMA_UNKNOWN_SIZE + packed[9:]
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=1 << 30).decompress(older, size + 1)


_UNPACK = {0: _stored, 8: _inflate, 12: _bunzip, 14: _unlzma}
"""By compression method."""


def _damaged(told: str) -> ZipError:
    return ZipError("damaged-archive-member", told)
