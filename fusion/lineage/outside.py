"""Adopted checkpoints as stages: what no command made has its place in the ancestry all the same."""

from collections.abc import Mapping
from pathlib import Path

from fusion.lineage.files import Hasher
from fusion.lineage.records import ADOPT, Record, by_age, read_records
from fusion.lineage.stages import Stage

FOLDER = "checkpoints/adopted"
"""Where those checkpoints lie that stand in no variant's chain."""


def with_adopted(stages: Mapping[str, Stage], root: Path = Path("."), hasher: Hasher | None = None) -> dict[str, Stage]:
    """`stages`, and in front of them one named adopt@NAME for each adopted checkpoint that has a record.

    Where several checkpoints were adopted in one place, it is the adoption of the one that is there.

    Raises:
        LineageError: a record was edited.
    """
    found = {}
    for file in sorted((root / "checkpoints").glob("*/*.dvc")):
        path = file.relative_to(root).with_suffix("").as_posix()
        record = adoption_of(path, root, hasher)
        if record is not None:
            found[record.stage] = Stage(
                record.stage, record.document["command"], (), (path,), record.document["params"]
            )
    return {**found, **stages}


def adoption_of(path: str, root: Path = Path("."), hasher: Hasher | None = None) -> Record | None:
    """The newest record of the adoption of what is at `path`; the newest at all when none tells of that, or nothing is.

    A checkpoint has gigabytes: it is hashed only where the records tell of several. Raises `LineageError` for a record
    that was edited.
    """
    name = path.removeprefix(f"{FOLDER}/").removeprefix("checkpoints/").replace("/", "-")
    records = [record for record in by_age(read_records(f"{ADOPT}@{name}", root)) if path in record.outputs]
    if len({record.outputs[path] for record in records}) > 1:
        hasher = hasher or Hasher(root)
        now = hasher.sha256(path) if hasher.exists(path) else None
        records = [record for record in records if record.outputs[path] == now] or records
    return records[-1] if records else None
