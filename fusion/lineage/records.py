"""Run records in their folder: reading them, checking them, and finding the one that tells how something was made."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.hashing import json_sha256
from fusion.lineage.errors import LineageError
from fusion.lineage.files import Hasher
from fusion.lineage.stages import Stage, parents_of, producer_of, producers

RECORDS = "records"
ADOPT = "adopt"
"""Records of `fusion adopt` are those of stages named adopt@NAME."""
DETERMINISTIC = ("stage", "command", "params", "inputs", "outputs", "parents")
"""The fields of a record that its digest covers."""
CORE = ("stage", "command", "params", "inputs", "outputs")
"""The fields that say what a stage did by itself; parents are found through the inputs' hashes as well."""


@dataclass(frozen=True)
class Record:
    """A record read from its file. `path` is relative to the project's root."""

    path: str
    document: dict[str, Any]

    @property
    def stage(self) -> str:
        """The stage's name in dvc.yaml."""
        return str(self.document["stage"])

    @property
    def inputs(self) -> dict[str, str]:
        """Path -> sha256 of everything the stage read."""
        return dict(self.document["inputs"])

    @property
    def outputs(self) -> dict[str, str]:
        """Path -> sha256 of everything the stage wrote."""
        return dict(self.document["outputs"])

    @property
    def core(self) -> dict[str, Any]:
        """What the stage did by itself: equal for equal results whatever the machine and the time."""
        return {name: self.document[name] for name in CORE}

    @property
    def digest(self) -> str:
        """The record's identity: covers what the stage did and, through its parents' digests, all before it."""
        return json_sha256({name: self.document[name] for name in DETERMINISTIC})


def record_folder(stage: str) -> str:
    """The folder of a stage's records, relative to the root."""
    return f"{RECORDS}/{stage.replace('@', '-')}"


def read_records(stage: str, root: Path = Path(".")) -> list[Record]:
    """All records of a stage, by file name; raises `LineageError` for one that cannot be what it says it is."""
    found = []
    for path in sorted((root / record_folder(stage)).glob("*.json")):
        relative = path.relative_to(root).as_posix()
        try:
            record = Record(relative, json.loads(path.read_text(encoding="utf-8")))
            expected = f"{record_folder(record.stage)}/{record_file_name(record.core)}"
            stored = record.document["digest"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise LineageError(f"{relative} is not a run record ({error!r}): restore it with git") from error
        if stored != record.digest or relative != expected:
            raise LineageError(f"{relative} was edited: its content has not the digest it says; restore it with git")
        found.append(record)
    return found


def is_adoption(stage: str) -> bool:
    """Whether a stage is one that a person did, with `fusion adopt`, and no command of dvc.yaml can do again."""
    return stage.startswith(f"{ADOPT}@")


def by_age(records: Iterable[Record]) -> list[Record]:
    """The records, the oldest run first."""
    return sorted(records, key=lambda record: str(record.document["run"].get("started")))


def remedy(stage: Stage, force: str = "") -> str:
    """The command that makes the output of `stage` again; `force`: further arguments for DVC."""
    if is_adoption(stage.name):
        return f"fusion adopt CHECKPOINT --as {stage.outs[0].removeprefix('checkpoints/').removeprefix('adopted/')}"
    return f"dvc repro {force}{stage.name}"


def record_file_name(core: dict[str, Any]) -> str:
    outputs = json_sha256(core["outputs"])
    inputs = json_sha256({name: core[name] for name in ("command", "params", "inputs")})
    return f"{outputs[:16]}-{inputs[:16]}.json"


def read_inputs(stage: Stage, outputs: Mapping[str, Stage], hasher: Hasher) -> dict[str, str]:
    """Path -> sha256 of all that `stage` reads: its dependencies, and every output of a stage that they are a part of.

    A dependency can be a folder around several outputs, or a file inside one. With these outputs among the inputs, each
    is found in its own stage's record. Raises `LineageError` when something is missing.
    """
    paths = {
        *stage.deps,
        *(out for parent in parents_of(stage, outputs).values() for out in _read_of(parent, stage.deps)),
    }
    return {path: hasher.sha256(path) for path in sorted(paths)}


def wanted_of(parent: Stage, inputs: Mapping[str, str]) -> dict[str, str]:
    """The outputs of `parent` among `inputs`, with their hashes."""
    return {out: inputs[out] for out in parent.outs if out in inputs}


def _read_of(parent: Stage, deps: Iterable[str]) -> list[str]:
    return [
        out
        for out in parent.outs
        if any(dep == out or dep.startswith(out + "/") or out.startswith(dep + "/") for dep in deps)
    ]


def choose_record(
    stage: Stage, stages: Mapping[str, Stage], wanted: Mapping[str, str], root: Path, hasher: Hasher
) -> Record | None:
    """The record of the run of `stage` that wrote `wanted` (path -> sha256), or None.

    Several runs can have written the same bytes: then the one whose command, parameters and source files are those of
    the working tree, because DVC runs a stage again when they change. Data that other stages wrote is hashed only if
    that does not decide. Of adoptions, which depend on nothing, it is the newest. Raises `LineageError` when none of
    them fits the working tree.
    """
    found = [
        record
        for record in read_records(stage.name, root)
        if all(record.outputs.get(path) == sha256 for path, sha256 in wanted.items())
    ]
    if len(found) <= 1:
        return found[0] if found else None
    if is_adoption(stage.name):
        return by_age(found)[-1]
    params = {path: dict(values) for path, values in stage.params.items()}
    current = [
        record
        for record in found
        if record.document["command"] == stage.command
        and record.document["params"] == params
        and set(stage.deps) <= set(record.inputs)
    ]
    sources = source_inputs(stage, stages)
    current = [record for record in current if _as_now(record, sources, hasher)]
    if len(current) > 1:
        current = [record for record in current if _as_now(record, stage.deps, hasher)]
    if current:
        return current[0]
    names = ", ".join(record.path for record in found)
    raise LineageError(
        f"several runs of `{stage.name}` wrote what is there now, none of them from the present code, parameters, data "
        f"({names}): bring the working tree up to date with `dvc repro {stage.name}`"
    )


def source_inputs(stage: Stage, stages: Mapping[str, Stage]) -> list[str]:
    """The dependencies of `stage` that no stage writes: code, catalogs, embedded samples."""
    outputs = producers(stages.values())
    return [
        path
        for path in stage.deps
        if producer_of(path, outputs) is None and not any(out.startswith(path + "/") for out in outputs)
    ]


def _as_now(record: Record, paths: Iterable[str], hasher: Hasher) -> bool:
    return all(hasher.exists(path) and record.inputs[path] == hasher.sha256(path) for path in paths)
