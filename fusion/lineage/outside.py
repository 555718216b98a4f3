"""Adopted checkpoints as stages: what no command made has its place in the ancestry all the same."""

from collections.abc import Mapping
from pathlib import Path

from fusion.lineage.records import read_records
from fusion.lineage.stages import Stage

ADOPT = "adopt"
"""Records of `fusion adopt` are those of stages named adopt@NAME."""
FOLDER = "checkpoints/adopted"
"""Where those checkpoints lie that stand in no variant's chain."""


def with_adopted(stages: Mapping[str, Stage], root: Path = Path(".")) -> dict[str, Stage]:
    """`stages`, and in front of them one named adopt@NAME for each adopted checkpoint that has a record.

    Raises:
        LineageError: a record was edited.
    """
    found = {}
    for file in sorted((root / "checkpoints").glob("*/*.dvc")):
        path = file.relative_to(root).with_suffix("").as_posix()
        name = path.removeprefix(f"{FOLDER}/").removeprefix("checkpoints/").replace("/", "-")
        records = read_records(f"{ADOPT}@{name}", root)
        if records:
            newest = max(records, key=lambda record: str(record.document["run"].get("started"))).document
            found[str(newest["stage"])] = Stage(str(newest["stage"]), newest["command"], (), (path,), newest["params"])
    return {**found, **stages}
