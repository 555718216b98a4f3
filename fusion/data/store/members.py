"""Where every member of every archive of a source lies: one sorted table of numbers, made once, shared by processes.

A dictionary of names would take 300 bytes a member in each process; a row here has 32, and a table on disk is mapped.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from fusion.data.store.zips import FOLDER, LINK, ZipFile, is_zip
from fusion.progress import Progress

Table = npt.NDArray[np.uint64]
"""[4, members]: the two halves of the name's hash, archive and place (see `_ARCHIVE_SHIFT`), size in bytes.

For what is in an archive and no file, the size is `_OTHER` plus the number of its kind in `_KINDS`.
"""
_ARCHIVE_SHIFT = 48
"""Archive number in the upper 16 bits, place in the lower 48: of a tar the data, of a zip the entry in its list."""
_MOST_ARCHIVES = 1 << 16
_PLACE = (1 << _ARCHIVE_SHIFT) - 1
_OTHER = 1 << 63
_TAR_KINDS = {
    tarfile.SYMTYPE: LINK,
    tarfile.LNKTYPE: "a hard link in the archive",
    tarfile.DIRTYPE: FOLDER,
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a file with holes, as `tar --sparse` packs it",
}
_SPECIAL = "a special member of the archive"
_KINDS = sorted({*_TAR_KINDS.values(), _SPECIAL})
_BLOCK = tarfile.BLOCKSIZE
_TOLD_EVERY = 1000


def make_table(archives: list[Path], label: str, guard: Callable[[Path], AbstractContextManager[None]]) -> Table:
    """The table of all files in `archives`; of two members of one name in an archive the last one counts.

    Args:
        archives: the tars and zips, in the order in which they are looked through.
        label: what they are called while they are read.
        guard: around the reading of each, to say what damage in it means.
    """
    if len(archives) > _MOST_ARCHIVES:
        raise ValueError(f"more than {_MOST_ARCHIVES} archives")
    columns = [array("Q") for _ in range(4)]
    high, low, places, sizes = columns
    with Progress(f"list the members of {label}", "members", sum(path.stat().st_size for path in archives)) as progress:
        before = 0
        for number, path in enumerate(archives):
            with guard(path):
                for count, (name, place, size, kind) in enumerate(_members(path)):
                    digest = _digest(name)
                    high.append(digest[0])
                    low.append(digest[1])
                    places.append(number << _ARCHIVE_SHIFT | place)
                    sizes.append(size if kind is None else _OTHER + _KINDS.index(kind))
                    if count % _TOLD_EVERY == _TOLD_EVERY - 1:
                        progress.advance(_TOLD_EVERY, before + place)
            before += path.stat().st_size
    table = np.empty((4, len(high)), np.uint64)
    for row, column in enumerate(columns):
        table[row] = np.frombuffer(column, np.uint64)
    del columns, high, low, places, sizes
    # By name; files before what is none; by archive; of an archive's files of one name the last comes first.
    archive, other = table[2] >> np.uint64(_ARCHIVE_SHIFT), table[3] >= np.uint64(_OTHER)
    order = np.lexsort((-np.arange(table.shape[1]), archive, other, table[1], table[0]))
    for row in range(4):
        table[row] = table[row][order]
    return table


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member lies: number of the archive, place in it, size in bytes; `kind` of what is no file, else None."""

    archive: int
    place: int
    size: int
    kind: str | None


def find(table: Table, name: str, only: int | None = None) -> Member | None:
    """The member `name` of the first archive that has it, or of the archive `only`; files before what is none."""
    high, low = _digest(name)
    at = int(np.searchsorted(table[0], np.uint64(high)))
    while at < table.shape[1] and table[0, at] == high:
        place, size = int(table[2, at]), int(table[3, at])
        if table[1, at] == low and only in (None, place >> _ARCHIVE_SHIFT):
            kind = _KINDS[size - _OTHER] if size >= _OTHER else None
            return Member(place >> _ARCHIVE_SHIFT, place & _PLACE, 0 if kind else size, kind)
        at += 1
    return None


def _digest(name: str) -> tuple[int, int]:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _members(path: Path) -> Iterator[tuple[str, int, int, str | None]]:
    """Name, place, size and kind of every member of an archive."""
    if is_zip(path):
        archive = ZipFile(path)
        try:
            for name, place, size, kind in archive.members():
                yield name.removeprefix("./"), place, size, kind
        finally:
            archive.close()
        return
    with path.open("rb") as file:
        for name, place, size, kind in _tar_members(file, os.fstat(file.fileno()).st_size):
            yield name.removeprefix("./"), place, size, kind


def _tar_members(file: IO[bytes], length: int) -> Iterator[tuple[str, int, int, str | None]]:
    """Plain headers are read here, three times as fast as by the library; it reads all others, and names damage."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        # The library has read the first header already, to see what it is; its turn comes in the loop.
        tar.firstmember, tar.offset = None, 0  # type: ignore[attr-defined]
        at = 0
        while True:
            plain = None if tar.pax_headers else _plain_member(os.pread(file.fileno(), _BLOCK, at))
            if plain is not None and at + _BLOCK + plain[1] <= length:
                name, size = plain
                yield name, at + _BLOCK, size, None
                at += _BLOCK + size + -size % _BLOCK
                continue
            if at == 0:
                file.seek(0)
            tar.offset = at
            member = tar.next()
            if member is None:
                # The library takes whatever is no header for the end, and all behind it would merely be missing.
                if os.pread(file.fileno(), _BLOCK, tar.offset).strip(b"\0"):
                    raise tarfile.ReadError(f"no header at byte {tar.offset}, and no end either")
                return
            if tar.offset <= at:
                raise tarfile.ReadError(f"the header at byte {member.offset} points backwards")
            at = tar.offset
            tar.members = []  # type: ignore[attr-defined]  # the library would keep every header in memory
            plainly = member.isreg() and not member.issparse()
            kind = None if plainly else _TAR_KINDS.get(member.type, _SPECIAL)
            yield member.name, member.offset_data, member.size, kind


def _plain_member(block: bytes) -> tuple[str, int] | None:
    """Name and size of a regular file whose header is one block without a prefix, a valid one; else None."""
    if len(block) < _BLOCK or block[156:157] != b"0" or block[345] or block[257:265] not in _PLAIN_MAGIC:
        return None
    digits, checksum = block[124:136].rstrip(b"\0 "), block[148:156].rstrip(b"\0 ")
    if not digits.isdigit() or not checksum.isdigit():
        return None
    try:
        size, wanted = int(digits, 8), int(checksum, 8)
    except ValueError:
        return None
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != wanted:
        return None
    return block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"), size


_PLAIN_MAGIC = {b"ustar\x0000", b"ustar  \0"}
