"""What a flow runs: the stages of dvc.yaml in DVC's order, those among them that changed, and why."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.errors import FlowError
from fusion.lineage.stages import Stage, parents_of, producer_of, producers

NOT_FOR_STAGES = ("PREFECT_SERVER_API_AUTH_STRING", "FUSION_UI_AUTH", "PREFECT__")
"""The server's own secret, and what identifies a flow run's process."""
_CLIENTS_SECRET = "PREFECT_API_AUTH_STRING"

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

BUSY = re.compile(r"is busy, it is being blocked by|[Uu]nable to acquire lock|RWLock-file .*corrupted")
"""What DVC says when another DVC has what it needs; `--wait-for-lock` waits for one of its locks only."""
RETRIES = 3
RETRY_SECONDS = float(os.environ.get("FUSION_RETRY_SECONDS", "15"))

TRIES = 20
"""How often dvc.lock is read again, each tenth of a second, before it is taken for broken."""


def dvc_command(*arguments: str) -> list[str]:
    """A DVC command line, run by this interpreter."""
    return [sys.executable, "-m", "dvc", *arguments]


def stage_environment(root: Path) -> dict[str, str]:
    """The environment of DVC and the stages: this interpreter's commands first on the path, output not held back."""
    commands = str(Path(sys.executable).parent)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_FOR_STAGES)}
    if not _talks_to_the_server(root):
        kept.pop(_CLIENTS_SECRET, None)
    # The code that runs is that of the working tree `root`, wherever the flow itself was loaded from.
    python_path = f"{root.resolve()}{os.pathsep}{kept.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    path = f"{commands}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PATH": path, "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1"}


def _talks_to_the_server(root: Path) -> bool:
    """Whether stages do: curation on Dask or Ray shows its parts on it."""
    path = root / "params.yaml"
    params = yaml.load(path.read_text(encoding="utf-8"), Loader=YAML_LOADER) if path.is_file() else {}
    return ((params or {}).get("data") or {}).get("runner", "processes") != "processes"


def changes(root: Path) -> dict[str, str]:
    """Stage -> what changed about it, for all stages that DVC would not leave alone. Asks DVC once."""
    command = dvc_command("--wait-for-lock", "status", "--json")
    for tries_left in range(RETRIES, -1, -1):
        run = subprocess.run(command, cwd=root, env=stage_environment(root), capture_output=True, text=True)
        if not (run.returncode and tries_left and BUSY.search(run.stderr)):
            break
        time.sleep(RETRY_SECONDS)
    if run.returncode:
        raise FlowError(f"dvc status failed: {_last_error(run.stderr) or _last_line(run.stdout)}")
    status: dict[str, list[Any]] = json.loads(run.stdout or "{}")
    return {name: _reason(entries) for name, entries in status.items()}


def _last_error(text: str) -> str:
    errors = [line for line in text.splitlines() if line.startswith("ERROR")]
    return errors[-1] if errors else _last_line(text)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _reason(entries: list[Any]) -> str:
    parts = []
    for entry in entries:
        if isinstance(entry, str):
            parts.append(entry)
            continue
        for kind, paths in entry.items():
            detail = ", ".join(f"{path} {state}" for path, state in paths.items()) if isinstance(paths, dict) else ""
            parts.append(f"{kind}: {detail}" if detail else str(kind))
    return "; ".join(parts)


def read_lock(root: Path) -> dict[str, Any]:
    """The stages of dvc.lock; empty without the file. Read again while another stage's end is being written into it."""
    path = root / "dvc.lock"
    for tries_left in range(TRIES, -1, -1):
        try:
            document = yaml.load(path.read_text(encoding="utf-8"), Loader=YAML_LOADER)
            return dict((document or {}).get("stages") or {})
        except FileNotFoundError:
            return {}
        except yaml.YAMLError as error:
            if not tries_left:
                raise FlowError(f"dvc.lock cannot be read: {str(error).splitlines()[0]}") from error
            time.sleep(0.1)
    raise AssertionError


def outdated_by_parents(stage: Stage, stages: Mapping[str, Stage], executed: set[str], root: Path) -> str | None:
    """Why `stage` must run because of what ran before it in this flow, or None when its inputs came out the same.

    Compares the hashes that dvc.lock has for the stage's dependencies with those of the outputs as they are now, which
    is what DVC would find after starting up for a second.
    """
    outputs = producers(stages.values())
    if not executed & set(parents_of(stage, outputs)):
        return None
    lock = read_lock(root)
    present = {out["path"]: out.get("md5") for entry in lock.values() for out in entry.get("outs", [])}
    recorded = {dep["path"]: dep.get("md5") for dep in lock.get(stage.name, {}).get("deps", [])}
    for path in stage.deps:
        hit = producer_of(path, outputs)
        if hit is None and not any(out.startswith(path + "/") for out in outputs):
            continue
        if path not in present or present[path] != recorded.get(path):
            return f"changed deps: {path} modified"
    return None
