"""DVC's objects where they lie, the local cache or a remote: listing them with sizes and ages, and removing them."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fusion.progress import Progress
from fusion.storage.errors import StorageError

BATCH = 500
DIRECTORY = ".dir"
TIMES = ("LastModified", "last_modified", "mtime", "modified", "created")


@dataclass(frozen=True)
class Object:
    """One object. `path` is as its file system names it; `changed` is seconds since 1970, None where nobody knows."""

    path: str
    size: int
    changed: float | None


class Place:
    """The objects of one object database of DVC, by hash: in `files/md5/` of a cache or a remote."""

    def __init__(self, name: str, database: Any) -> None:
        """`database`: a `HashFileDB` of dvc-data."""
        self.name = name
        self._database = database

    def objects(self) -> dict[str, Object]:
        """All of them. What lies there and is no object of DVC is left out, and so never removed."""
        found = {}
        for one in _local(self._root) if self._is_local else self._elsewhere():
            *_, prefix, rest = one.path.rsplit("/", 2)
            hash_ = prefix + rest
            if len(prefix) == 2 and len(hash_.removesuffix(DIRECTORY)) == 32 and _is_hex(hash_):
                found[hash_] = one
        return found

    @property
    def _root(self) -> str:
        return str(self._database.path)

    @property
    def _is_local(self) -> bool:
        return bool(self._database.fs.protocol == "local")

    def _elsewhere(self) -> Iterator[Object]:
        files = self._database.fs
        if files.exists(self._root):
            for path, facts in files.fs.find(self._root, detail=True).items():
                yield Object(path, int(facts.get("size") or 0), _changed(facts))

    def listing(self, hash_: str) -> set[str] | None:
        """The hashes of the files of a folder; None when its listing is not here."""
        path = self._database.oid_to_path(hash_)
        try:
            with self._database.fs.open(path, "rb") as stream:
                return {entry["md5"] for entry in json.loads(stream.read())}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path} in {self.name} is no listing of a folder ({error}): it is damaged") from error

    def remove(self, objects: Mapping[str, Object]) -> None:
        """Listings go first: cut off in the middle, this leaves files without a listing, never one without files."""
        order = sorted(objects, key=lambda hash_: (not hash_.endswith(DIRECTORY), hash_))
        with Progress(f"gc {self.name}", "objects", len(order)) as progress:
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                self._database.fs.remove([objects[hash_].path for hash_ in batch])
                progress.advance(len(batch))
        from dvc_data.hashfile.db import get_index

        get_index(self._database).clear()  # Or the next push would believe that they are still there.


def _is_hex(hash_: str) -> bool:
    return set(hash_.removesuffix(DIRECTORY)) <= set("0123456789abcdef")


def _local(root: str) -> Iterator[Object]:
    """A file may be older than its place in the cache: then the inode tells when it came there."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            state = os.lstat(path)
            yield Object(path, state.st_size, max(state.st_mtime, state.st_ctime))


def _changed(facts: Mapping[str, Any]) -> float | None:
    """When an object came there, by what its file system tells."""
    for name in TIMES:
        value = facts.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None


def unused(place: Place, needed: Iterable[str], hours: float) -> tuple[dict[str, Object], dict[str, Object], int]:
    """Of all objects in `place`: those that nobody needs, those of them that are too young to tell, bytes of the rest.

    A run that is going on has objects that no file names yet, so what came within the last `hours` stays, and so does
    what has no time.
    """
    wanted, latest = set(needed), time.time() - hours * 3600
    old, young, kept = {}, {}, 0
    for hash_, one in place.objects().items():
        if hash_ in wanted:
            kept += one.size
        elif one.changed is None or one.changed > latest:
            young[hash_] = one
        else:
            old[hash_] = one
    return old, young, kept
