"""Samples read from their shards by byte range: from the disk, or from any place that fsspec knows.

Source: design "From source to batch", item 5.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fusion.data.store.sample import Message
from fusion.data.stream.errors import LoaderError, UnreadableSample
from fusion.data.stream.manifest import Place
from fusion.data.stream.remote import RemoteShards


@dataclass(frozen=True)
class Record:
    """One sample as it lies in its shard."""

    sample_id: str
    conversations: list[Message]
    image: bytes | None


@dataclass(frozen=True)
class Remote:
    """Data sets whose shards lie elsewhere, and the folder on this machine that keeps what was fetched."""

    addresses: Mapping[str, str]
    """Data set -> what stands for `data/shards/<data set>` in the paths of its shards."""
    cache: Path
    cache_bytes: int


class ShardReader:
    """Reads samples from tar shards, keeping a few of them open."""

    def __init__(self, root: Path, remote: Remote | None = None, open_shards: int = 64) -> None:
        """`root` is the project's folder, to which the paths of shards are relative."""
        self._root = root
        self._open: OrderedDict[str, int] = OrderedDict()
        self._limit = open_shards
        self._addresses = dict(remote.addresses) if remote else {}
        self._remote = RemoteShards(remote.cache, remote.cache_bytes) if remote and remote.addresses else None

    def read(self, place: Place) -> Record:
        """A sample.

        Raises:
            UnreadableSample: the bytes at its place are not those of a sample.
            LoaderError: the shard is missing or out of reach.
        """
        image = self._bytes(place, *place.image) if place.image else None
        return Record(place.sample_id, self.conversations(place), image)

    def conversations(self, place: Place) -> list[Message]:
        """The text of a sample; errors as of `read`."""
        document = self._bytes(place, *place.record)
        try:
            conversations: list[Message] = json.loads(document)["conversations"]
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableSample(
                "corrupt-record", f"no JSON record at byte {place.record[0]} of {place.shard}"
            ) from error
        return conversations

    def _bytes(self, place: Place, offset: int, size: int) -> bytes:
        if self._remote is not None and (address := self._addresses.get(place.dataset)):
            inside = place.shard.removeprefix(f"data/shards/{place.dataset}/")
            data = self._remote.read(f"{address.rstrip('/')}/{inside}", offset, size)
        else:
            data = os.pread(self._descriptor(place.shard), size, offset)
        if len(data) != size:
            raise UnreadableSample(
                "short-shard", f"{place.shard} ends before byte {offset + size}: restore it with `dvc checkout`"
            )
        return data

    def _descriptor(self, shard: str) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= self._limit:
            os.close(self._open.popitem(last=False)[1])
        try:
            descriptor = os.open(self._root / shard, os.O_RDONLY)
        except FileNotFoundError:
            raise LoaderError(f"shard {shard} is missing: restore it with `dvc checkout` or `dvc repro`") from None
        self._open[shard] = descriptor
        return descriptor

    def close(self) -> None:
        """Closes all open shards."""
        while self._open:
            os.close(self._open.popitem()[1])
