"""A training stage of a whole pipeline that is killed under `dvc repro`, and run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import psutil

from tests.e2e.project import Project


def events(project: Project, variant: str, stage: str) -> list[dict[str, Any]]:
    """What a stage's log has."""
    path = project.root / "runs" / variant / f"{stage}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def train_again_with_a_kill(project: Project, variant: str, stage: str) -> list[int]:
    """Runs a stage that was run anew and kills all its processes after a checkpoint; then runs it to its end.

    Returns the steps with which the two starts began.
    """
    name = f"train_{stage}@{variant}"
    command = ["dvc", "repro", "--force", "--single-item", "--no-run-cache", name]
    environment = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": str(project.root), "DO_NOT_TRACK": "1"}
    before = len(events(project, variant, stage))
    process = subprocess.Popen(
        command, cwd=project.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 300
    while not any(event.get("event") == "checkpoint" for event in events(project, variant, stage)[before:]):
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be disturbed"
        time.sleep(0.02)
    for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        try:
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.communicate()
    assert not (project.root / "checkpoints" / variant / stage / "model.safetensors").exists(), "it was in the middle"
    project.repro("--single-item", "--force", "--no-run-cache", name)
    return [event["first_step"] for event in events(project, variant, stage)[before:] if event.get("event") == "start"]
