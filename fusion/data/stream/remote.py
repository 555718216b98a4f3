"""Shards at fsspec addresses (s3://, memory://, file:// and others), and the bounded folder for what was fetched.

Whole shards would fill the folder with samples whose turn is much later: pieces of some megabytes are fetched, about
as much as a block of the training order. Any number of processes share the folder. The pieces that were read longest
ago leave first; a reader that has one open keeps it.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from fusion.data.store.folders import full_disk_named
from fusion.data.stream.errors import LoaderError

PIECE = 8 * 2**20
"""Bytes that are fetched at once."""
ATTEMPTS = 5
_STRIPES = 256
_PARTIAL = "partial"


@dataclass(frozen=True)
class _Shard:
    system: Any
    path: str
    size: int
    key: str


class RemoteShards:
    """Byte ranges of files at fsspec addresses."""

    def __init__(self, cache: Path, limit: int, piece: int = PIECE, wait: float = 1.0) -> None:
        """Keeps at most `limit` bytes in the folder `cache`; waits `wait` seconds after a failure, then twice as long.

        Raises:
            LoaderError: the limit is less than a piece.
        """
        if limit < piece:
            raise LoaderError(f"data.loading.cache_gb: {limit} bytes are less than a piece of {piece} bytes")
        self._folder = cache
        self._limit = limit
        self._piece = piece
        self._wait = wait
        self._shards: dict[str, _Shard] = {}
        (cache / "locks").mkdir(parents=True, exist_ok=True)
        (cache / "pieces").mkdir(exist_ok=True)

    def read(self, address: str, offset: int, size: int) -> bytes:
        """Bytes of a file, fewer where it ends before.

        Raises:
            LoaderError: it is missing, or could not be fetched in several attempts.
        """
        shard = self._shard(address)
        end = min(offset + size, shard.size)
        found = []
        for number in range(offset // self._piece, -(-end // self._piece)):
            start = number * self._piece
            found.append(self._part(shard, address, number, max(offset - start, 0), min(end - start, self._piece)))
        return b"".join(found)

    def _shard(self, address: str) -> _Shard:
        if address not in self._shards:
            try:
                system, path = fsspec.core.url_to_fs(address)
            except (ImportError, ValueError) as error:
                raise LoaderError(f"{address} cannot be opened: {error}; for s3:// install the extra `s3`") from error
            size = self._fetch(address, lambda: system.size(path))
            # What the store says of this version of the file: a shard that was replaced is another one.
            key = hashlib.sha256(f"{address}\0{self._fetch(address, lambda: system.ukey(path))}".encode()).hexdigest()
            self._shards[address] = _Shard(system, path, int(size), key[:32])
        return self._shards[address]

    def _part(self, shard: _Shard, address: str, number: int, first: int, last: int) -> bytes:
        """Bytes `first` to `last` of a piece."""
        path = self._folder / "pieces" / f"{shard.key}-{number:06d}"
        size = min(self._piece, shard.size - number * self._piece)
        if (data := _kept(path, size, first, last)) is not None:
            return data
        with self._locked(f"{(int(shard.key[:8], 16) + number) % _STRIPES:03d}"):
            # Another process may have fetched it while this one waited.
            if (data := _kept(path, size, first, last)) is not None:
                return data
            start = number * self._piece
            piece = self._fetch(address, lambda: shard.system.cat_file(shard.path, start=start, end=start + size))
            if len(piece) != size:
                raise LoaderError(f"{address}: {len(piece)} bytes came instead of {size} from byte {start} on")
            self._keep(path, piece)
        return bytes(piece[first:last])

    def _keep(self, path: Path, piece: bytes) -> None:
        """Writes a piece aside and names it, after those that were read longest ago have made room."""
        with self._locked("room"), full_disk_named(self._folder):
            kept = sorted(
                (entry.stat().st_mtime_ns, entry.name, entry.stat().st_size)
                for entry in os.scandir(path.parent)
                if entry.name != _PARTIAL
            )
            room = self._limit - len(piece) - sum(size for _, _, size in kept)
            for _, name, size in kept:
                if room >= 0:
                    break
                (path.parent / name).unlink()
                room += size
            partial = path.with_name(_PARTIAL)
            partial.write_bytes(piece)
            partial.rename(path)

    def _fetch(self, address: str, call: Any) -> Any:
        for attempt in range(ATTEMPTS):
            try:
                return call()
            except FileNotFoundError:
                raise LoaderError(f"shard {address} is missing: put it there, or correct data.loading.shards") from None
            except PermissionError as error:
                raise LoaderError(f"shard {address} may not be read: {error}; check the credentials") from error
            except Exception as error:
                # Stores raise what their libraries raise, and many network errors of these are no OSError.
                if attempt == ATTEMPTS - 1:
                    told = f"{type(error).__name__}: {error}"
                    raise LoaderError(f"shard {address} cannot be fetched in {ATTEMPTS} attempts: {told}") from error
                time.sleep(self._wait * 2**attempt)
        raise AssertionError("not reached")

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self._folder / "locks" / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _kept(path: Path, size: int, first: int, last: int) -> bytes | None:
    """Bytes of a piece in the folder; None if it is not there, or was cut when the machine went down."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                return None
            os.utime(file.fileno())
            return os.pread(file.fileno(), last - first, first)
    except FileNotFoundError:
        return None
