"""Run records in their folder: reading them, checking them, and finding the one that tells how something was made."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.hashing import json_sha256
from fusion.lineage.errors import LineageError
from fusion.lineage.files import sha256_path
from fusion.lineage.stages import Stage, producer_of, producers

RECORDS = "records"
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


def record_file_name(core: dict[str, Any]) -> str:
    outputs = json_sha256(core["outputs"])
    inputs = json_sha256({name: core[name] for name in ("command", "params", "inputs")})
    return f"{outputs[:16]}-{inputs[:16]}.json"


def outputs_read(paths: Iterable[str], parent: Stage) -> list[str]:
    """The outputs of `parent` that a stage with the dependencies `paths` reads, wholly or in part."""
    paths = list(paths)
    return [
        out
        for out in parent.outs
        if any(path == out or path.startswith(out + "/") or out.startswith(path + "/") for path in paths)
    ]


def wanted_outputs(inputs: Mapping[str, str], parent: Stage, root: Path) -> dict[str, str]:
    """The outputs of `parent` that are read, with hashes: as `inputs` has them, or hashed now where a part is read."""
    return {out: inputs[out] if out in inputs else sha256_path(root / out) for out in outputs_read(inputs, parent)}


def choose_record(stage: Stage, stages: Mapping[str, Stage], wanted: Mapping[str, str], root: Path) -> Record | None:
    """The record of the run of `stage` that wrote `wanted` (path -> sha256), or None.

    Several runs can have written the same bytes: then the one whose command, parameters and source files are those of
    the working tree, because DVC runs a stage again when they change. Data that other stages wrote is hashed only if
    that does not decide. Raises `LineageError` when none of them fits the working tree.
    """
    found = [
        record
        for record in read_records(stage.name, root)
        if all(record.outputs.get(path) == sha256 for path, sha256 in wanted.items())
    ]
    if len(found) <= 1:
        return found[0] if found else None
    params = {path: dict(values) for path, values in stage.params.items()}
    current = [
        record
        for record in found
        if record.document["command"] == stage.command
        and record.document["params"] == params
        and set(record.inputs) == set(stage.deps)
    ]
    sources = source_inputs(stage, stages)
    current = [record for record in current if _as_now(record, sources, root)]
    if len(current) > 1:
        current = [record for record in current if _as_now(record, stage.deps, root)]
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


def _as_now(record: Record, paths: Iterable[str], root: Path) -> bool:
    return all(record.inputs[path] == hash_if_there(path, root) for path in paths)


def hash_if_there(path: str, root: Path) -> str | None:
    """The content hash of `path`, a path relative to the root, or None when nothing is there."""
    return sha256_path(root / path) if (root / path).exists() else None
