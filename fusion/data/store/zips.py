"""Zip archives read in place: their list of members as a stream, and a member by its entry in that list.

The standard library keeps an object of half a kilobyte for every member, in every process that opens the archive; the
archives of a data set have millions. Here a member is known by where its entry stands. Format: PKWARE's APPNOTE.TXT.
"""

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from zipfile import BadZipFile

from fusion.data.store.unpack import unpack

_END = struct.Struct("<4s4H2LH")
_END_MARK = b"PK\x05\x06"
_END_SPAN = _END.size + 0xFFFF
"""A comment of up to 64 kB may follow the end record."""
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s4B4HL2L5H2L")
_WINDOW = 1 << 20
_ENCRYPTED, _PATCHED, _STRONG, _UTF8 = 0x1, 0x20, 0x40, 0x800
_BIG = 0xFFFFFFFF
_WIDE, _UNICODE_PATH = 0x0001, 0x7075
"""Kinds of extra fields: wide numbers, and the name once more in UTF-8."""
FOLDER, LINK = "a folder", "a symbolic link in the archive"


def is_zip(path: Path) -> bool:
    """Whether the archive at `path` is called a zip, in small or capital letters; a tar otherwise."""
    return path.name.lower().endswith(".zip")


class EncryptedError(Exception):
    """A member needs a password."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One member as the archive's list has it; `header_offset` is where its local header starts in the file."""

    name: str
    kind: str | None
    flags: int
    compress_type: int
    CRC: int
    compress_size: int
    file_size: int
    header_offset: int
    length: int
    """Bytes of the entry itself."""


class ZipFile:
    """One open archive. Members are read with positions of its list, so several processes can share the list."""

    def __init__(self, path: Path) -> None:
        """Reads the end record alone.

        Raises:
            BadZipFile: there is none, or it leads outside the file.
        """
        self._file: IO[bytes] = path.open("rb")
        try:
            self._length = self._file.seek(0, 2)
            self._start, self._size, self._shift = self._find_list()
        except BaseException:
            self._file.close()
            raise

    def members(self) -> Iterator[tuple[str, int, int, str | None]]:
        """Name, position of the entry, size, and for what is no file its kind; in memory is one piece of the list.

        Raises:
            BadZipFile: the list is damaged.
        """
        at, end = self._start, self._start + self._size
        window, base = b"", at
        while at < end:
            if at - base + _ENTRY.size + 3 * 0xFFFF > len(window) and base + len(window) < end:
                self._file.seek(at)
                window, base = self._file.read(min(_WINDOW, end - at)), at
            entry = _entry(window, at - base, self._shift)
            yield entry.name.rstrip("/"), at, entry.file_size, entry.kind
            at += entry.length

    def read(self, position: int) -> bytes:
        """The bytes of the member whose entry stands at `position`; never more than the entry says.

        Raises:
            EncryptedError: it needs a password.
            NotImplementedError: it is packed by a method that is not known here.
            BadZipFile and others: as of `unpack`, it is damaged.
        """
        self._file.seek(position)
        raw = self._file.read(_ENTRY.size)
        if len(raw) == _ENTRY.size:
            raw += self._file.read(sum(_ENTRY.unpack(raw)[12:15]))
        entry = _entry(raw, 0, self._shift)
        if entry.flags & _ENCRYPTED:
            raise EncryptedError(f"{entry.name} needs a password")
        if entry.flags & (_PATCHED | _STRONG):
            raise NotImplementedError("patched data and strong encryption are not supported")
        # No method makes a picture much larger; what claims to be is not read.
        if entry.compress_size > entry.file_size + entry.file_size // 64 + 4096:
            raise BadZipFile(f"{entry.compress_size} packed bytes for {entry.file_size}")
        self._inside(entry.header_offset)
        return unpack(self._file, entry)

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
            raise BadZipFile("there is no end record: not a zip archive, or cut off")
        *_, size, offset, _comment = _END.unpack_from(tail, found)
        end = tail_at + found
        wide = self._wide(end)
        if wide is not None:
            size, offset, end = wide
        # Archives with something in front, such as a self-extractor, count from where the archive begins.
        shift = end - size - offset
        if shift < 0 or end - size < 0:
            raise BadZipFile("the end record leads outside the file")
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
            raise BadZipFile("the archive spans several files")
        at = self._inside(end - _LOCATOR.size - _END64.size)
        self._file.seek(at)
        fields = _END64.unpack(self._file.read(_END64.size))
        if fields[0] != b"PK\x06\x06":
            return None
        return fields[8], fields[9], at

    def _inside(self, position: int) -> int:
        if not 0 <= position < self._length:
            raise BadZipFile(f"a position leads outside the file: {position}")
        return position


def _entry(window: bytes, at: int, shift: int) -> _Entry:
    """The entry that starts at `at` of a piece of the list; `shift` is added to the position of its header."""
    if len(window) - at < _ENTRY.size or window[at : at + 4] != b"PK\x01\x02":
        raise BadZipFile("the list of members is damaged")
    fields = _ENTRY.unpack_from(window, at)
    flags, method, crc, packed, size = fields[5], fields[6], fields[9], fields[10], fields[11]
    name_length, extra_length, comment_length, mode, header = *fields[12:15], fields[17] >> 16, fields[18]
    start = at + _ENTRY.size
    raw, extra = window[start : start + name_length], window[start + name_length : start + name_length + extra_length]
    # An entry may have its wide numbers in an extra field, each of them only if the narrow one is full.
    wide = [packed, size, header]
    if _BIG in wide:
        numbers = _wide_numbers(extra)
        for which in (1, 0, 2):
            if wide[which] == _BIG and numbers:
                wide[which] = numbers.pop(0)
    name = _name(raw, flags, extra).partition("\0")[0]
    kind = FOLDER if name.endswith("/") else LINK if stat.S_ISLNK(mode) else None
    length = _ENTRY.size + name_length + extra_length + comment_length
    return _Entry(name, kind, flags, method, crc, wide[0], wide[1], wide[2] + shift, length)


def _name(raw: bytes, flags: int, extra: bytes) -> str:
    """The name of a member: UTF-8 where something says so or its bytes are, else the code page of the first zips.

    Info-ZIP, which Linux distributions have as `zip`, writes UTF-8 without the flag for it.
    """
    if flags & _UTF8:
        return raw.decode("utf-8", "surrogateescape")
    field = _extra_field(extra, _UNICODE_PATH)
    # The field holds the checksum of the name that it belongs to: a program that renames may have left an old one.
    if len(field) > 5 and field[0] == 1 and int.from_bytes(field[1:5], "little") == zlib.crc32(raw):
        raw = field[5:]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _wide_numbers(extra: bytes) -> list[int]:
    field = _extra_field(extra, _WIDE)
    count = len(field) // 8
    return list(struct.unpack_from(f"<{count}Q", field))


def _extra_field(extra: bytes, wanted: int) -> bytes:
    """The content of the first extra field of kind `wanted`; empty where there is none."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""
