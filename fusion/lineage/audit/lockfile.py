"""dvc.lock: it fits dvc.yaml, its dependencies fit each other and the tree, its sizes fit what they are sizes of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion.lineage.audit.contents import Contents
from fusion.lineage.audit.findings import Report
from fusion.lineage.files import files_below
from fusion.lineage.lock import Entry, Locked, listing_md5
from fusion.lineage.stages import Stage


def check_lock(
    lock: Mapping[str, Locked], stages: Mapping[str, Stage], contents: Contents, root: Path, report: Report
) -> None:
    """Reports what does not fit, a line each."""
    old = superseded(lock, stages)
    for name in stages.keys() - lock.keys():
        report.error("never-run", name, f"stage `{name}` of dvc.yaml is not in dvc.lock", f"`dvc repro {name}`")
    outs = {path: entry for locked in lock.values() for path, entry in locked.outs.items()}
    trees = _Trees(root, outs, contents)
    for name, locked in lock.items():
        if name in old:
            continue
        again = f"`git diff HEAD -- dvc.lock`; if it was not edited, `dvc repro {name}`"
        if name in stages:
            for what in _unlike(locked, stages[name]):
                report.error("lock-differs", name, f"dvc.lock: {name}: {what}", again)
        elif not name.endswith(".dvc"):
            report.warn("lock-leftover", name, f"dvc.lock has `{name}`, dvc.yaml has not", "`dvc repro` rewrites it")
        for path, entry in locked.deps.items():
            md5 = trees.md5(path)
            if md5 != entry.md5:
                what = f"dvc.lock: {name} read {path} as {entry.md5}, now it is {md5 or 'not there'}"
                report.error("lock-differs", name, what, again)
            elif entry.size is not None and trees.size(path) not in (None, entry.size):
                what = f"dvc.lock: {name} read {path} with {entry.size} bytes, it has {trees.size(path)}"
                report.error("lock-differs", name, what, again)
        for path, entry in locked.outs.items():
            wrong = _wrong_size(entry, contents)
            if wrong:
                report.error("lock-differs", name, f"dvc.lock: {name}: {path} {wrong}", again)


def superseded(lock: Mapping[str, Locked], stages: Mapping[str, Stage]) -> set[str]:
    """The entries of stages that dvc.yaml has no more, and in whose place something was adopted since.

    DVC takes no entry out of dvc.lock, so they stay; what they name is no more what is there, and cannot be.
    """
    adopted = {path for name, locked in lock.items() if name.endswith(".dvc") for path in locked.outs}
    return {
        name
        for name, locked in lock.items()
        if name not in stages and not name.endswith(".dvc") and not adopted.isdisjoint(locked.outs)
    }


def _unlike(locked: Locked, stage: Stage) -> list[str]:
    params = {path: dict(values) for path, values in stage.params.items()}
    found = []
    if locked.command != stage.command:
        found.append(f"the command is `{locked.command}`, dvc.yaml has `{stage.command}`")
    if _plain(locked.params) != _plain(params):
        found.append("the parameters are not those of the files")
    if set(locked.deps) != set(stage.deps):
        found.append(f"it names other dependencies: {', '.join(sorted(set(locked.deps) ^ set(stage.deps)))}")
    if set(locked.outs) != set(stage.outs):
        found.append(f"it names other outputs: {', '.join(sorted(set(locked.outs) ^ set(stage.outs)))}")
    return found


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str, sort_keys=True))


def _wrong_size(entry: Entry, contents: Contents) -> str | None:
    files = contents.listed.get(entry.path)
    if files is None or any(md5 not in contents.sizes for md5 in files.values()):
        return None
    size = sum(contents.sizes[md5] for md5 in files.values())
    if entry.size is not None and entry.size != size:
        return f"is said to have {entry.size} bytes, and has {size}"
    if entry.files is not None and entry.files != len(files):
        return f"is said to have {entry.files} files, and has {len(files)}"
    return None


class _Trees:
    """MD5 and size of any path as DVC computes them: of outputs from the cache's listings, of sources from the tree."""

    def __init__(self, root: Path, outs: Mapping[str, Entry], contents: Contents) -> None:
        self._root = root
        self._outs = outs
        self._contents = contents
        self._known: dict[str, tuple[str | None, int | None]] = {}

    def md5(self, path: str) -> str | None:
        return self._of(path)[0]

    def size(self, path: str) -> int | None:
        """None where an object is missing, of which nobody knows the size."""
        return self._of(path)[1]

    def _of(self, path: str) -> tuple[str | None, int | None]:
        if path not in self._known:
            self._known[path] = self._find(path)
        return self._known[path]

    def _find(self, path: str) -> tuple[str | None, int | None]:
        if path in self._outs:
            entry = self._outs[path]
            return entry.md5, entry.size
        files: dict[str, str] = {}
        sizes: int | None = 0
        around = False
        for out in self._outs:
            listed = self._contents.listed.get(out) or {}
            if path.startswith(out + "/"):
                inside = path[len(out) + 1 :]
                around = True
                chosen = {name[len(inside) :].lstrip("/"): md5 for name, md5 in listed.items() if _below(name, inside)}
            elif out.startswith(path + "/"):
                around = True
                prefix = out[len(path) + 1 :]
                chosen = {f"{prefix}/{name}" if name else prefix: md5 for name, md5 in listed.items()}
            else:
                continue
            files |= chosen
            known = [self._contents.sizes.get(md5) for md5 in chosen.values()]
            sizes = None if sizes is None or None in known else sizes + sum(size for size in known if size)
            if path.startswith(out + "/") and set(chosen) == {""}:
                return chosen[""], sizes
        full = self._root / path
        if full.is_file():
            return _md5(full), full.stat().st_size
        if full.is_dir():
            # What lies beside the outputs in a folder around them.
            for name in files_below(full):
                if name not in files and not (around and self._written(f"{path}/{name}")) and not name.endswith(".pyc"):
                    files[name] = _md5(full / name)
                    sizes = None if sizes is None else sizes + (full / name).stat().st_size
        return (listing_md5(files), sizes) if files else (None, 0)

    def _written(self, path: str) -> bool:
        """Whether an output holds the path: its listing counts, not what lies in the working tree."""
        return any(path == out or path.startswith(out + "/") for out in self._outs)


def _below(name: str, folder: str) -> bool:
    return name == folder or name.startswith(folder + "/")


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
