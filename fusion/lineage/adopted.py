"""The record of something that no stage made: taken in from outside, at one moment, by a person."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion.files import write_json
from fusion.hashing import json_sha256
from fusion.lineage.environment import environment, git_state, hardware
from fusion.lineage.files import Hasher
from fusion.lineage.record import FORMAT
from fusion.lineage.records import DETERMINISTIC, record_file_name, record_folder


def record_adoption(
    stage: str, command: str, params: Mapping[str, Any], output: str, run: Mapping[str, Any], root: Path = Path(".")
) -> str:
    """Writes the record of `output` (a path below `root`) and returns the record's path.

    The record has the form of a stage's: `stage` is adopt@NAME, there are no inputs and no parents, and `params` say
    where it came from. An equal record is left as it is, with the times of the first run.
    """
    core: dict[str, Any] = {
        "stage": stage,
        "command": command,
        "params": json.loads(json.dumps(params)),
        "inputs": {},
        "outputs": {output: Hasher(root).sha256(output)},
    }
    path = f"{record_folder(stage)}/{record_file_name(core)}"
    if (root / path).is_file():
        return path
    document: dict[str, Any] = {**core, "parents": {}}
    document["digest"] = json_sha256({name: document[name] for name in DETERMINISTIC})
    about = {"git": git_state(root), "environment": environment(root), "hardware": hardware(), "seed": None}
    write_json({**document, "format": FORMAT, "run": {**about, **run}}, root / path)
    return path
