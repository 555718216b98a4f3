"""One side of a comparison: a lineage, and the files that go with it, from the working tree or from an older commit."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.lineage.errors import LineageError
from fusion.lineage.family import Family
from fusion.lineage.lock import Cache, cache_of, read_lock, tree_at
from fusion.lineage.reference import find_family


@dataclass(frozen=True)
class Side:
    """`family` is what was asked for; `cache` is None in the working tree, whose own files count."""

    name: str
    family: Family
    root: Path | None
    cache: Cache | None

    def file(self, output: str, name: str = "") -> Path | None:
        """The file `name` of a stage's output (the output itself when empty); None when it is not to be had."""
        if self.root is None:
            return None
        if self.cache is None:
            here = self.root / output / name if name else self.root / output
            return here if here.is_file() else None
        for locked in read_lock(self.root).values():
            if output in locked.outs:
                try:
                    md5 = self.cache.files(locked.outs[output]).get(name)
                except LineageError:
                    return None
                path = self.cache.object(md5) if md5 else None
                return path if path is not None and path.is_file() else None
        return None

    def scores(self) -> dict[str, Any] | None:
        """scores.json of the evaluation in the lineage, None when there is none."""
        for member in self.family.members.values():
            for path in member.record.outputs:
                if path.endswith("scores.json"):
                    file = self.file(path)
                    return json.loads(file.read_text(encoding="utf-8")) if file is not None else None
        return None


@contextlib.contextmanager
def open_side(ref: str, root: Path = Path(".")) -> Iterator[Side]:
    """`ref` as for `fusion lineage`; REF@COMMIT is what it was at a commit of git.

    Raises:
        LineageError: nothing of that name is known there.
    """
    name, at, commit = ref.rpartition("@")
    in_project = (root / "dvc.yaml").is_file()
    try:
        family = find_family(ref, root)
        yield Side(ref, family, root if in_project and family.stated is None else None, None)
        return
    except LineageError:
        if not at or not in_project:
            raise
    with tree_at(commit, root) as tree:
        yield Side(ref, find_family(name, tree), tree, cache_of(root))
