"""Members of zip archives unpacked within bounds, whatever their headers say.

The standard library decompresses a member in pieces as large as the caller asks for, and for bzip2 and LZMA without any
bound: a kilobyte that claims to hold a picture may take gigabytes of memory before its size is looked at.
"""

import bz2
import lzma
import struct
import zlib
from typing import IO, Protocol, cast
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, BadZipFile

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_MOST_MEMORY = 64 << 20
"""Bytes that an LZMA stream may ask for as its dictionary; packers use 16 MB at most for files of this kind."""


class Packed(Protocol):
    """A member as the archive's list has it, named as the standard library names it."""

    @property
    def header_offset(self) -> int: ...
    @property
    def compress_type(self) -> int: ...
    @property
    def compress_size(self) -> int: ...
    @property
    def file_size(self) -> int: ...
    @property
    def CRC(self) -> int: ...


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def unpack(file: IO[bytes], member: Packed) -> bytes:
    """The data of a member of the zip archive in `file`: of the size and checksum that its header gives.

    Raises:
        BadZipFile: it has another size or checksum, or its local header is damaged.
        NotImplementedError: it is packed by a method that is not known here.
        zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, struct.error: its packed data are damaged.
    """
    file.seek(member.header_offset)
    head = file.read(_LOCAL.size)
    mark, *_, name, extra = _LOCAL.unpack(head)
    if mark != b"PK\x03\x04":
        raise BadZipFile("no header where the list of members says")
    file.seek(name + extra, 1)
    packed = file.read(member.compress_size)
    if len(packed) != member.compress_size:
        raise BadZipFile(f"{len(packed)} packed bytes, {member.compress_size} expected")
    # One byte more than there should be tells whether there is more.
    data = _unpacked(packed, member, member.file_size + 1)
    if len(data) != member.file_size:
        told = "more" if len(data) > member.file_size else str(len(data))
        raise BadZipFile(f"it unpacks to {told} bytes, {member.file_size} expected")
    if zlib.crc32(data) != member.CRC:
        raise BadZipFile("its checksum does not fit")
    return data


def _unpacked(packed: bytes, member: Packed, most: int) -> bytes:
    if member.compress_type == ZIP_STORED:
        return packed
    if member.compress_type == ZIP_DEFLATED:
        return zlib.decompressobj(-15).decompress(packed, most)
    if member.compress_type == ZIP_BZIP2:
        return _whole(bz2.BZ2Decompressor(), packed, most)
    if member.compress_type == ZIP_LZMA:
        start = 4 + struct.unpack_from("<H", packed, 2)[0]
        return _whole(_lzma(packed[4:start]), packed[start:], most)
    raise NotImplementedError("that compression method is not supported")


def _lzma(properties: bytes) -> _Unpacker:
    """Properties of LZMA 1: literal and position bits in one byte, the dictionary's size in four."""
    bits, memory = struct.unpack("<BI", properties)
    if memory > _MOST_MEMORY:
        raise BadZipFile(f"it asks for {memory} bytes of memory to be unpacked")
    found = {"lc": bits % 9, "lp": bits // 9 % 5, "pb": bits // 45, "dict_size": max(memory, 4096)}
    filters = [{"id": lzma.FILTER_LZMA1, **found}]
    return cast(_Unpacker, lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters))


def _whole(unpacker: _Unpacker, packed: bytes, most: int) -> bytes:
    """All that comes out, up to `most` bytes: these two may stop before."""
    data = unpacker.decompress(packed, most)
    while len(data) < most and not (unpacker.eof or unpacker.needs_input):
        data += unpacker.decompress(b"", most - len(data))
    return data
