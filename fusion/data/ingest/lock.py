"""images.lock.json: where a source's files lie, in words that hold everywhere, and what they were at ingest."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fusion.data.errors import DataError, IngestError
from fusion.data.ingest.origin import Layout, PublishedOrigin
from fusion.data.store.containers import find_containers, told_deeper
from fusion.data.store.images import file_size
from fusion.data.store.resume import Resumable
from fusion.progress import Progress

LOCK = "images.lock.json"
_BLOCK = 1 << 20


def lock_images(layout: Layout, used: Callable[[], Iterable[str]], work: Resumable) -> dict[str, Any]:
    """The content of the lock file.

    An archive is locked by its size and sha256, and so are the annotations where they are not written here. Of a folder
    the paths and sizes of the pictures that `used` names are hashed in their order: reading millions of files twice
    would cost hours, and sharding hashes each of them anyway. `work` remembers what was hashed before a kill.
    Where pictures are not in a folder, archives that lie too deep in it to be read are told on stderr.

    Raises:
        IngestError: a file is not the one that was published.
    """
    entries: list[dict[str, Any]] = []
    containers = find_containers(layout.folder, layout.images)
    missed: list[Path] = []
    for path in containers:
        entry: dict[str, Any] = {"path": path.relative_to(layout.folder).as_posix()}
        if path.is_dir():
            listing, whole = _listing(path, used())
            entry |= {"kind": "folder", **listing}
            missed += [] if whole else [path]
        else:
            entry |= {"kind": "archive", **_content(layout, entry["path"], work)}
        entries.append(entry)
    if deeper := told_deeper(missed, containers, layout.folder):
        print(f"note: {deeper}", file=sys.stderr, flush=True)
    lock: dict[str, Any] = {"base": layout.base, "containers": entries}
    if layout.inputs:
        lock["annotations"] = [{"path": name, **_content(layout, name, work)} for name in layout.inputs]
    return lock


def _content(layout: Layout, name: str, work: Resumable) -> dict[str, Any]:
    path = layout.folder / name
    facts = path.stat()
    sha256 = work.remember(f"sha256 {name} {facts.st_size} {facts.st_mtime_ns}", lambda: _sha256(path, name))
    if (told := layout.sha256.get(name)) not in (None, sha256):
        raise IngestError(
            f"{path} has the sha256 {sha256}, but was published with {told}: its download is damaged. Delete "
            f"{path.resolve()} and run the same command again"
        )
    return {"bytes": facts.st_size, "sha256": sha256}


def _sha256(path: Path, name: str) -> str:
    """As `file_sha256`, told about: an archive may take many minutes."""
    digest = hashlib.sha256()
    with path.open("rb") as file, Progress(f"hash {name}", "bytes", path.stat().st_size) as progress:
        while block := file.read(_BLOCK):
            digest.update(block)
            progress.advance(len(block))
    return digest.hexdigest()


def _listing(folder: Path, names: Iterable[str]) -> tuple[dict[str, Any], bool]:
    """What the lock holds of a folder, and whether all of `names` are files in it."""
    digest, files, total, asked = hashlib.sha256(), 0, 0, 0
    for name in names:
        asked += 1
        try:
            size = file_size(folder / name)
        except OSError:
            continue  # sharding rejects this picture with what the system says
        if size is not None:
            digest.update(f"{size} {name}\n".encode())
            files, total = files + 1, total + size
    return {"bytes": total, "files": files, "sha256": digest.hexdigest()}, files == asked


def locked_containers(lock: dict[str, Any], raw: Path, origin: object, folder: str | None) -> list[Path]:
    """The folders and archives of a lock file on this machine.

    Args:
        lock: content of the lock file.
        raw: the folder it lies in.
        origin, folder: of the source, to find what it does not keep in `raw`.

    Raises:
        DataError: an archive is missing or has another size than at ingest.
    """
    base = raw
    if lock["base"]["kind"] != "written":
        if not isinstance(origin, PublishedOrigin):
            raise DataError(
                f"{raw / LOCK} belongs to another kind of origin: run `fusion ingest` for this source again"
            )
        base = origin.layout(folder).folder
    found = []
    for entry in lock["containers"]:
        path = base / entry["path"]
        if not path.exists():
            raise DataError(
                f"{path} was there at ingest and is missing now: bring it back, or run `fusion ingest` again"
            )
        if entry["kind"] == "archive" and path.stat().st_size != entry["bytes"]:
            raise DataError(
                f"{path} has changed since ingest ({path.stat().st_size} bytes, was {entry['bytes']}): ingest again"
            )
        found.append(path)
    return found
