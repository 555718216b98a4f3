"""Run records: for each executed stage, what went in, what came out, on what, from which commit.

A record is one JSON file under `records/<stage, '@' as '-'>/<outputs16>-<inputs16>.json`, committed with dvc.lock. Its
deterministic part is `stage`, `command`, `params`, `inputs`, `outputs` (with content hashes) and `parents`; `run` says
when, where and from which commit. The file's name holds the first 16 digits of the digest of the outputs, and of the
digest of command, parameters and inputs together. So:

- The same outputs made again from the same inputs find their record there, and it is left as it is, byte for byte:
  running again in a fresh clone leaves git clean. The first run's times stay in it; every execution's own times are
  appended to runs/stages.jsonl, which git ignores.
- The same outputs made from other inputs (a comment changed in the code, say) get a second record beside the first.
  Both are true, neither is lost.
- Parents are no part of the name. A parent that changed without changing its outputs leaves its own second record,
  which names the outputs that this stage read; the content hashes link the two, so nothing has to be written again.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fusion.files import write_json
from fusion.hashing import json_sha256
from fusion.lineage.environment import environment, git_state, hardware
from fusion.lineage.errors import LineageError
from fusion.lineage.files import Hasher
from fusion.lineage.memory import PeakMemory
from fusion.lineage.outside import with_adopted
from fusion.lineage.records import (
    DETERMINISTIC,
    choose_record,
    read_inputs,
    read_records,
    record_file_name,
    record_folder,
    source_inputs,
    wanted_of,
)
from fusion.lineage.remembered import RememberingHasher
from fusion.lineage.stages import Stage, parents_of, producers, resolve_stages
from fusion.secrecy import mask

EXECUTIONS = "runs/stages.jsonl"
FORMAT = 1


@contextlib.contextmanager
def record_stage(stage_name: str, root: Path = Path(".")) -> Iterator[None]:
    """Runs the body as stage `stage_name` of dvc.yaml and, if it succeeds, leaves its record under records/.

    Inputs are hashed before the body (large ones that are as they were, from memory), outputs after it; source files
    edited meanwhile are named in the record. Raises `LineageError` when the stage is unknown, an input is missing or an
    output was not written. Processes that the body starts may come here again with the same stage (they inherit the
    environment): only the outermost one records.
    """
    if os.environ.get("FUSION_RECORDING") == stage_name:
        yield
        return
    before = RememberingHasher(root)
    stages = with_adopted(resolve_stages(root), root, before)
    if stage_name not in stages:
        raise LineageError(f"dvc.yaml has no stage `{stage_name}`, so its run cannot be recorded")
    stage = stages[stage_name]
    inputs = read_inputs(stage, producers(stages.values()), before)
    parents = _parent_digests(stage, stages, inputs, root, before)
    before.remember()
    run: dict[str, Any] = {"git": git_state(root), "started": _now()}
    began = time.monotonic()
    os.environ["FUSION_RECORDING"] = stage_name
    try:
        with PeakMemory() as memory:
            yield
    except BaseException as error:
        failure = mask(str(error).strip()).splitlines()[0] if str(error).strip() else type(error).__name__
        _log_execution(root, stage_name, run, began, memory.peak_bytes, {"failure": failure})
        raise
    finally:
        del os.environ["FUSION_RECORDING"]
    seconds = time.monotonic() - began
    after = Hasher(root)
    edited = [p for p in source_inputs(stage, stages) if not after.exists(p) or after.sha256(p) != inputs[p]]
    core = {
        "stage": stage.name,
        "command": stage.command,
        "params": {path: dict(values) for path, values in stage.params.items()},
        "inputs": inputs,
        "outputs": _hash_outputs(stage, after),
    }
    path = f"{record_folder(stage_name)}/{record_file_name(core)}"
    run |= {
        "ended": _now(),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": memory.peak_bytes,
        "changed_during_run": edited,
        "seed": stage.params.get("params.yaml", {}).get("run.seed"),
        "flow_run_id": os.environ.get("FUSION_FLOW_RUN_ID"),
        "environment": environment(root),
        "hardware": hardware(),
    }
    _keep(root, path, core, parents, run)
    _log_execution(root, stage_name, run, began, memory.peak_bytes, {"record": path})


def _hash_outputs(stage: Stage, hasher: Hasher) -> dict[str, str]:
    missing = [path for path in stage.outs if not hasher.exists(path)]
    if missing:
        raise LineageError(f"stage `{stage.name}` ended without writing {', '.join(missing)}")
    return {path: hasher.sha256(path) for path in stage.outs}


def _keep(root: Path, path: str, core: dict[str, Any], parents: dict[str, str | None], run: dict[str, Any]) -> None:
    """Writes the record unless an equal one is there. One that lacked a parent's record is completed."""
    for existing in read_records(core["stage"], root):
        if existing.path == path and (None not in existing.document["parents"].values() or None in parents.values()):
            return
    document: dict[str, Any] = {**core, "parents": parents}
    document["digest"] = json_sha256({name: document[name] for name in DETERMINISTIC})
    write_json({**document, "format": FORMAT, "run": run}, root / path)


def _parent_digests(
    stage: Stage, stages: Mapping[str, Stage], inputs: dict[str, str], root: Path, hasher: Hasher
) -> dict[str, str | None]:
    """Parent stage -> digest of the record of the run that wrote what is read now; None when there is no record."""
    digests: dict[str, str | None] = {}
    for name, parent in parents_of(stage, producers(stages.values())).items():
        record = choose_record(parent, stages, wanted_of(parent, inputs), root, hasher)
        digests[name] = record.digest if record is not None else None
    return digests


def _log_execution(
    root: Path, stage: str, run: dict[str, Any], began: float, peak_bytes: int, more: dict[str, Any]
) -> None:
    line = {
        "stage": stage,
        "started": run["started"],
        "ended": _now(),
        "seconds": round(time.monotonic() - began, 3),
        "peak_memory_bytes": peak_bytes,
        "host": platform.node(),
        "flow_run_id": os.environ.get("FUSION_FLOW_RUN_ID"),
        **more,
    }
    path = root / EXECUTIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
