"""Hashes of what lies in the working tree and in DVC's cache, each file once, and of whole outputs made of them.

Only sha256 is computed: the content of the cache under the listing that dvc.lock names has to be what the record says.
An object's MD5 is computed only where that fails, to say which one it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fusion.lineage.audit.findings import Report
from fusion.lineage.digests import hash_files
from fusion.lineage.errors import LineageError
from fusion.lineage.files import files_below
from fusion.lineage.lock import Cache, Entry


@dataclass(frozen=True)
class Content:
    """Files of one output in one place: relative path -> sha256. `whole`: nothing of it is missing."""

    files: dict[str, str]
    whole: bool

    @property
    def sha256(self) -> str | None:
        """The content hash as records have it; None when something is missing."""
        if not self.whole:
            return None
        if set(self.files) == {""}:
            return self.files[""]
        lines = [f"{sha}  {path}\n" for path, sha in sorted(self.files.items())]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


class Contents:
    """All of them. `work` is None where no working tree is looked at."""

    def __init__(self, entries: Iterable[Entry], cache: Cache, root: Path, work: bool, report: Report) -> None:
        """Hashes everything; what is missing or damaged in the cache is reported here."""
        self._report = report
        self._cache = cache
        listed: dict[str, dict[str, str] | None] = {}
        places: dict[str, dict[str, Path]] = {}
        for entry in entries:
            listed[entry.path] = self._listing(entry)
            if work and (root / entry.path).exists():
                full = root / entry.path
                names = [""] if full.is_file() else sorted(files_below(full))
                places[entry.path] = {name: full / name if name else full for name in names}
        objects = {md5 for files in listed.values() if files for md5 in files.values()}
        there = {md5: cache.object(md5) for md5 in objects if cache.object(md5).is_file()}
        # Hard links and equal files of several outputs are one file: none is read twice.
        paths = [*there.values(), *(path for files in places.values() for path in files.values())]
        by_node = {(stat.st_dev, stat.st_ino): path for path in paths for stat in [path.stat()]}
        hashes = hash_files(by_node.values(), "audit")
        node = {path: by_node[stat.st_dev, stat.st_ino] for path in paths for stat in [path.stat()]}
        report.count("files hashed", len(by_node))
        report.count("bytes hashed", sum(path.stat().st_size for path in by_node.values()))
        report.count("cache objects", len(objects))
        self.cached: dict[str, Content] = {}
        self.work: dict[str, Content] = {}
        for path, files in listed.items():
            known = {name: hashes[node[there[md5]]] for name, md5 in (files or {}).items() if md5 in there}
            self.cached[path] = Content(known, files is not None and len(known) == len(files))
        for path, found in places.items():
            self.work[path] = Content({name: hashes[node[file]] for name, file in found.items()}, True)
        self.listed = listed
        self.sizes = {md5: path.stat().st_size for md5, path in there.items()}
        for path, files in listed.items():
            for name, md5 in (files or {}).items():
                if md5 not in there:
                    lost = f"{path}/{name}" if name else path
                    report.error(
                        "object-missing", md5, f"cache object {md5} ({lost}) is missing",
                        f"`dvc fetch {path}`, or `dvc commit {path}` if the working tree's file is right",
                    )  # fmt: skip

    def _listing(self, entry: Entry) -> dict[str, str] | None:
        try:
            return self._cache.files(entry)
        except LineageError as error:
            kind = "object-damaged" if "damaged" in str(error) else "object-missing"
            if kind == "object-damaged":
                self._report.damaged_objects.add(entry.md5)
            self._report.error(kind, entry.md5, str(error), f"`fusion audit --evict`, then `dvc fetch {entry.path}`")
            return None

    def name_damaged(self, path: str) -> bool:
        """Reports which objects of an output are not what their MD5 says; whether there are any."""
        found = False
        for name, md5 in (self.listed.get(path) or {}).items():
            file = self._cache.object(md5)
            if file.is_file() and _md5(file) != md5:
                found = True
                self._report.damaged_objects.add(md5)
                self._report.error(
                    "object-damaged", md5, f"cache object {md5} ({path}{'/' if name else ''}{name}) is damaged: {file}",
                    f"`fusion audit --evict`, then `dvc fetch {path}` or `dvc commit {path}`",
                )  # fmt: skip
        return found

    def name_changed(self, path: str, root: Path) -> None:
        """Reports which files of an output in the working tree differ from the cache."""
        remedy = f"`dvc checkout --force {path}` brings the recorded files back"
        files = self.listed.get(path)
        work = self.work[path].files
        if files is None:
            what = f"{path} is not what its record says, and the cache has no listing to tell which file it is"
            return self._report.error("output-changed", path, what, remedy)
        told = False
        for name in sorted({*files, *work}):
            full = f"{path}/{name}" if name else path
            if name not in work:
                self._report.error("file-removed", full, f"{full} was removed from {path}", remedy)
            elif name not in files:
                self._report.error("file-added", full, f"{full} was added to {path}", remedy)
            elif _md5(root / full) != files[name]:
                self._report.error("file-changed", full, f"{full} is not what was made", remedy)
            else:
                continue
            told = True
        if not told:
            self._report.error("output-changed", path, f"{path} is what dvc.lock says, not its record", remedy)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
