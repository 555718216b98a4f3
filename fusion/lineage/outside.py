"""Adopted checkpoints as stages: what no command made has its place in the ancestry all the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fusion.lineage.files import Hasher
from fusion.lineage.records import ADOPT, Record, by_age, is_adoption, read_records
from fusion.lineage.stages import Stage

FOLDER = "checkpoints/adopted"
"""Where those checkpoints lie that stand in no variant's chain."""


@dataclass(frozen=True)
class Adopted:
    """Where an adopted checkpoint came from.

    Attributes:
        name: ORG/NAME of the Hub, or the name of a folder.
        commit: of the repository; None for a folder.
        declared: the licence that its card declares, None without.
        follows: the licence that follows from its base LLM, None where that is not known.
    """

    name: str
    commit: str | None
    declared: str | None
    follows: str | None

    @property
    def told(self) -> str:
        """Its origin in words."""
        return f"the folder {self.name}" if self.commit is None else f"{self.name} at commit {self.commit}"

    @property
    def licence(self) -> str:
        """Its licence in words."""
        follows = f", by its base LLM {self.follows}" if self.follows else ""
        return f"{self.declared} (declared){follows}" if self.declared else f"none declared{follows}"


def adopted_of(record: Record) -> Adopted | None:
    """What the record of an adoption says of the origin; None for the record of anything else."""
    facts = record.document["params"].get(ADOPT)
    if not is_adoption(record.stage) or facts is None:
        return None
    origin, licence = facts["origin"], facts.get("licence", {})
    hub = origin["kind"] == "hub"
    return Adopted(
        origin["repo"] if hub else origin["name"],
        origin["revision"] if hub else None,
        licence.get("declared"),
        licence.get("follows"),
    )


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
