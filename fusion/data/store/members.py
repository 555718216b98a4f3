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
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from fusion.data.store.zips import ZipFile
from fusion.progress import Progress

Table = npt.NDArray[np.uint64]
"""[4, members]: the two halves of the name's hash, archive and place (see `_ARCHIVE_SHIFT`), size in bytes."""
_ARCHIVE_SHIFT = 48
"""Archive number in the upper 16 bits, place in the lower 48: of a tar the data, of a zip the entry in its list."""
_MOST_ARCHIVES = 1 << 16
_PLACE = (1 << _ARCHIVE_SHIFT) - 1
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
                for count, (name, place, size) in enumerate(_members(path)):
                    digest = _digest(name)
                    high.append(digest[0])
                    low.append(digest[1])
                    places.append(number << _ARCHIVE_SHIFT | place)
                    sizes.append(size)
                    if count % _TOLD_EVERY == _TOLD_EVERY - 1:
                        progress.advance(_TOLD_EVERY, before + place)
            before += path.stat().st_size
    table = np.empty((4, len(high)), np.uint64)
    for row, column in enumerate(columns):
        table[row] = np.frombuffer(column, np.uint64)
    del columns, high, low, places, sizes
    # Sorted by name, then archive; of an archive's members of one name the last comes first.
    order = np.lexsort((-np.arange(table.shape[1]), table[2] >> np.uint64(_ARCHIVE_SHIFT), table[1], table[0]))
    for row in range(4):
        table[row] = table[row][order]
    return table


def find(table: Table, name: str, only: int | None = None) -> tuple[int, int, int] | None:
    """Archive number, place and size of the member `name` in the first archive that has it, or in the one asked for."""
    high, low = _digest(name)
    at = int(np.searchsorted(table[0], np.uint64(high)))
    while at < table.shape[1] and table[0, at] == high:
        if table[1, at] == low:
            place = int(table[2, at])
            if only is None or place >> _ARCHIVE_SHIFT == only:
                return place >> _ARCHIVE_SHIFT, place & _PLACE, int(table[3, at])
        at += 1
    return None


def _digest(name: str) -> tuple[int, int]:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, place and size of every file of an archive."""
    if path.name.endswith(".zip"):
        archive = ZipFile(path)
        try:
            for name, place, size in archive.members():
                yield name.removeprefix("./"), place, size
        finally:
            archive.close()
        return
    with path.open("rb") as file:
        for name, place, size in _tar_members(file, os.fstat(file.fileno()).st_size):
            yield name.removeprefix("./"), place, size


def _tar_members(file: IO[bytes], length: int) -> Iterator[tuple[str, int, int]]:
    """Plain headers are read here, three times as fast as by the library; it reads all others, and names damage."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        # The library has read the first header already, to see what it is; its turn comes in the loop.
        tar.firstmember, tar.offset = None, 0  # type: ignore[attr-defined]
        at = 0
        while True:
            plain = None if tar.pax_headers else _plain_member(os.pread(file.fileno(), _BLOCK, at))
            if plain is not None and at + _BLOCK + plain[1] <= length:
                name, size = plain
                yield name, at + _BLOCK, size
                at += _BLOCK + size + -size % _BLOCK
                continue
            if at == 0:
                file.seek(0)
            tar.offset = at
            member = tar.next()
            if member is None:
                return
            if tar.offset <= at:
                raise tarfile.ReadError(f"the header at byte {member.offset} points backwards")
            at = tar.offset
            tar.members = []  # type: ignore[attr-defined]  # the library would keep every header in memory
            if member.isreg():
                yield member.name, member.offset_data, member.size


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
