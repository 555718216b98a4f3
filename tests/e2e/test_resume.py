"""A training stage whose ranks are killed continues from its last complete checkpoint to the same weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fusion.hashing import file_sha256
from fusion.shared_memory import FOLDER, PREFIX
from tests.e2e.project import Project, copy_project

WEIGHTS = Path("checkpoints/micro/stage1/model.safetensors")
LOG = Path("runs/micro/stage1.jsonl")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project in which stage 1 of micro is ready to be trained, with resumable state every four steps."""
    made = copy_project(tmp_path / "project", "micro")
    made.set("variants.micro.stages.stage1.save_every_steps", 4)
    made.set("variants.micro.stages.stage1.epochs", 3)
    made.repro("base@micro", "validate@micro-stage1")
    return made


def events(project: Project) -> list[dict[str, object]]:
    path = project.root / LOG
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def kill_after_checkpoint(project: Project) -> set[str]:
    """Starts the stage and kills every one of its processes once a complete checkpoint and some steps are there.

    Returns the addresses that they listened on.
    """
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(project.root)
    process = subprocess.Popen(["fusion", "train", "micro", "stage1"], cwd=project.root, env=environment)
    deadline = time.monotonic() + 240
    while not any(event.get("event") == "checkpoint" for event in events(project)[:-1]):
        assert process.poll() is None and time.monotonic() < deadline, "the stage ended before it could be killed"
        time.sleep(0.05)
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    addresses: set[str] = set()
    for member in family:
        try:
            listening = [link for link in member.net_connections() if link.status == psutil.CONN_LISTEN]
            addresses |= {link.laddr.ip for link in listening}
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()
    return addresses


def buffers() -> set[str]:
    return {path.name for path in FOLDER.glob(f"{PREFIX}*")}


def test_killed_ranks_continue_to_the_same_weights(project: Project) -> None:
    before = buffers()
    project.run("fusion", "train", "micro", "stage1")
    undisturbed = file_sha256(project.root / WEIGHTS)
    curve = (project.root / "results/micro/stage1/loss.csv").read_bytes()
    steps = sum("loss" in event for event in events(project))
    for folder in ("checkpoints/micro/stage1", "results/micro/stage1"):
        project.run("rm", "-r", folder)
    (project.root / LOG).unlink()
    assert kill_after_checkpoint(project) == {"127.0.0.1"}
    assert not (project.root / WEIGHTS).exists()
    project.run("fusion", "train", "micro", "stage1")
    assert buffers() <= before, "killed and finished ranks leave nothing in shared memory"
    starts = [event for event in events(project) if event.get("event") == "start"]
    assert starts[-1]["first_step"] in range(4, steps)
    assert file_sha256(project.root / WEIGHTS) == undisturbed
    assert (project.root / "results/micro/stage1/loss.csv").read_bytes() == curve
    assert not list((project.root / "scratch/train").iterdir())
