"""Runs tasks of lmms-eval: each in a fresh process and folder, without its caches, and read with distrust.

A task that is unknown, data that cannot be fetched, a key that is missing, a number that is none, too few questions:
each is an `LmmsError` that says so. lmms-eval itself would end with exit code 0.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fusion.errors import FusionError

LAST_WORDS = 1500
INSTALL = (
    "uv pip install --override <(echo 'torchvision; sys_platform == \"never\"') -r requirements.txt 'lmms-eval==0.7.3'"
)


class LmmsError(FusionError):
    """lmms-eval is not installed, a task failed, or what it gave is not what was asked for."""


@dataclass(frozen=True)
class TaskResult:
    """The numbers of a task by key, its questions with answers, and lmms-eval's version."""

    values: dict[str, float]
    samples: tuple[dict[str, Any], ...]
    version: str


def require_lmms() -> None:
    """Raises `LmmsError` with the command that installs it."""
    if find_spec("lmms_eval") is None:
        raise LmmsError(f"lmms-eval is not installed (extra `eval`), see docs/evaluation.md:\n  {INSTALL}")


def run_task(
    checkpoint: Path,
    task: str,
    keys: Sequence[str],
    questions: int | None,
    *,
    device: str,
    batch_size: int,
    include: Path | None = None,
    offline: bool = False,
    limit: int | None = None,
) -> TaskResult:
    """One task with one checkpoint.

    Args:
        keys: what must be among its numbers.
        questions: how many there must be; None = any.
        include: a folder with the task's YAML file, for tasks that are not of the package.
        offline: nothing is fetched.
        limit: only so many questions; for trials.

    Raises:
        LmmsError: see there. The last words of the process are in the message.
    """
    require_lmms()
    with tempfile.TemporaryDirectory(prefix="fusion-lmms-") as name:
        folder = Path(name)
        request = {
            "task": task, "checkpoint": str(checkpoint.resolve()), "device": device, "batch_size": batch_size,
            "folder": name, "include": str(include.resolve()) if include else None, "limit": limit,
        }  # fmt: skip
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "LMMS_EVAL_USE_CACHE": "False"}
        if offline:
            environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home")}
        command = [
            sys.executable,
            "-m",
            "fusion.evaluate.lmms.child",
            *(str(folder / f) for f in ("request.json", "a.json")),
        ]
        # In a folder of its own: some tasks write files to where they are started.
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        words = done.stdout.decode(errors="replace")[-LAST_WORDS:]
        if done.returncode != 0 or not (folder / "a.json").is_file():
            raise LmmsError(f"lmms-eval, task {task}: exit code {done.returncode}. Its last words:\n{words}")
        return read_result((folder / "a.json").read_text(encoding="utf-8"), task, keys, questions)


def read_result(text: str, task: str, keys: Sequence[str], questions: int | None) -> TaskResult:
    """What the process wrote; raises `LmmsError` for a key that is missing, no number, or questions that are."""
    document = json.loads(text)
    # lmms-eval names a number `key,filter`.
    values = {key.partition(",")[0]: value for key, value in document["results"].items() if "_stderr" not in key}
    for key in keys:
        if key not in values:
            raise LmmsError(f"lmms-eval, task {task}: no key `{key}`; it gave {', '.join(sorted(values)) or 'nothing'}")
        if isinstance(values[key], bool) or not math.isfinite(values[key]):
            raise LmmsError(f"lmms-eval, task {task}: {key} is {values[key]!r}, no number")
    samples = document["samples"]
    if questions is not None and len(samples) != questions:
        raise LmmsError(f"lmms-eval, task {task}: {len(samples)} questions, and there must be {questions}")
    return TaskResult({key: float(value) for key, value in values.items()}, tuple(samples), str(document["version"]))
