"""The ancestry of a stage: the record of every stage before it, linked by content, and the digest of it all.

The walk goes from the files that are there now back to the source files. A parent is found by the hashes of what its
child read, so a folder of old records beside the current ones does no harm, and data is hashed only at the start.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.hashing import json_sha256
from fusion.lineage.errors import LineageError
from fusion.lineage.files import Hasher
from fusion.lineage.outside import with_adopted
from fusion.lineage.records import Record, choose_record, read_inputs, record_folder, remedy, wanted_of
from fusion.lineage.stages import Stage, ancestors_of, parents_of, producer_of, producers, resolve_stages

FORMAT = 1


@dataclass(frozen=True)
class Ancestry:
    """The records of all ancestors of `stage`, parents before children."""

    stage: str
    records: dict[str, Record]

    @property
    def digest(self) -> str:
        """One sha256 over data, weights, parameters and code of all ancestors: equal for equal results.

        Neither times, machines and commits count, nor which of several equal runs a parent's record is from.
        """
        return json_sha256({name: json_sha256(record.core) for name, record in self.records.items()})

    @property
    def document(self) -> dict[str, Any]:
        """The ancestry to publish beside an artifact: per stage its command, parameters, inputs and outputs."""
        stages = {name: {**record.core, "digest": json_sha256(record.core)} for name, record in self.records.items()}
        return {"format": FORMAT, "digest": self.digest, "stages": stages}


def ancestry_of(stage_name: str, root: Path = Path(".")) -> Ancestry:
    """The ancestry of what stage `stage_name` reads now.

    Raises `LineageError` for an unknown stage, a missing record (naming the stage to run again), and for two stages
    that were made from different outputs of the same parent.
    """
    hasher = Hasher(root)
    stages = with_adopted(resolve_stages(root), root, hasher)
    outputs = producers(stages.values())
    inputs = _now(stages[stage_name], outputs, hasher) if stage_name in stages else {}
    return Ancestry(stage_name, _behind(stage_name, inputs, stages, root, hasher))


def ancestry_through(stage_name: str, root: Path = Path(".")) -> Ancestry:
    """The ancestry of what stage `stage_name` made and is there now: its own record, and those of all before it.

    Raises `LineageError` as `ancestry_of`, and when what is there is not what a record of the stage says.
    """
    hasher = Hasher(root)
    stages = with_adopted(resolve_stages(root), root, hasher)
    if stage_name not in stages:
        raise LineageError(f"dvc.yaml has no stage `{stage_name}`")
    stage = stages[stage_name]
    record = choose_record(stage, stages, {path: hasher.sha256(path) for path in stage.outs}, root, hasher)
    if record is None:
        raise LineageError(
            f"{', '.join(stage.outs)} {'is' if len(stage.outs) == 1 else 'are'} not what a record of `{stage_name}` in "
            f"{record_folder(stage_name)}/ says: get it back with `dvc checkout`, or run `{remedy(stage)}`"
        )
    behind = _behind(stage_name, record.inputs, stages, root, hasher)
    return Ancestry(stage_name, {**behind, stage_name: record})


def _behind(
    stage_name: str, inputs: dict[str, str], stages: dict[str, Stage], root: Path, hasher: Hasher
) -> dict[str, Record]:
    """The records of all ancestors of a stage that reads `inputs` (path -> sha256), parents before children."""
    ancestors = ancestors_of(stage_name, stages)
    outputs = producers(stages.values())
    read: dict[str, dict[str, str]] = {stage.name: {} for stage in ancestors}
    _note_read(stages[stage_name], inputs, outputs, read)
    records: dict[str, Record] = {}
    for stage in reversed(ancestors):
        record = choose_record(stage, stages, read[stage.name], root, hasher)
        if record is None:
            raise LineageError(
                f"{record_folder(stage.name)}/ has no record of the run of `{stage.name}` that wrote what is there: "
                f"get it back with `git checkout -- records`, or run `{remedy(stage, '--force --single-item ')}`"
            )
        records[stage.name] = record
        _note_read(stage, record.inputs, outputs, read)
    return {stage.name: records[stage.name] for stage in ancestors}


def lineage_digest(variant: str, root: Path = Path(".")) -> str:
    """The digest of all that stands behind the package of `variant`: data, weights, parameters and code."""
    return ancestry_of(f"package@{variant}", root).digest


def _now(stage: Stage, outputs: dict[str, Stage], hasher: Hasher) -> dict[str, str]:
    """Hashes of what `stage` reads now; a missing output is named with the stage that makes it."""
    for path in stage.deps:
        hit = producer_of(path, outputs)
        if hit is not None and not hasher.exists(path):
            raise LineageError(f"{path} is not there: run `{remedy(hit[1])}`, or `dvc checkout {hit[0]}`")
    return read_inputs(stage, outputs, hasher)


def _note_read(
    child: Stage, inputs: dict[str, str], outputs: dict[str, Stage], read: dict[str, dict[str, str]]
) -> None:
    """Notes for each parent of `child` which of its outputs, with which content, `child` was made from."""
    for parent in parents_of(child, outputs).values():
        for path, sha256 in wanted_of(parent, inputs).items():
            if read[parent.name].setdefault(path, sha256) != sha256:
                raise LineageError(
                    f"`{child.name}` was made from another {path} than is there now or than a stage beside it read: "
                    f"run `dvc repro {child.name}`"
                )
