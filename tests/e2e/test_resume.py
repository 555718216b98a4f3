"""A training stage that is killed or told to stop continues from its last whole checkpoint to the same weights."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from fusion.hashing import file_sha256
from fusion.shared_memory import FOLDER, PREFIX
from fusion.train.errors import LossGuard, Preempted
from tests.e2e.project import Project, copy_project

WEIGHTS = Path("checkpoints/micro/stage1/model.safetensors")
LOG = Path("runs/micro/stage1.jsonl")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which stage 1 of micro is ready to be trained, with resumable state every four steps."""
    made = copy_project(tmp_path_factory.mktemp("resume") / "project", "micro")
    made.set("variants.micro.stages.stage1.save_every_steps", 4)
    made.set("variants.micro.stages.stage1.epochs", 3)
    made.repro("base@micro", "validate@micro-stage1")
    return made


def events(project: Project) -> list[dict[str, object]]:
    path = project.root / LOG
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def environment(project: Project) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(project.root)}


def start(project: Project, checkpoints: int) -> subprocess.Popen[str]:
    """Starts the stage; it has just written so many checkpoints in this start, and has steps left."""
    before = len(events(project))
    process = subprocess.Popen(
        ["fusion", "train", "micro", "stage1"],
        cwd=project.root,
        env=environment(project),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while sum(event.get("event") == "checkpoint" for event in events(project)[before:-1]) < checkpoints:
        assert process.poll() is None and time.monotonic() < deadline, "the stage ended before it could be disturbed"
        time.sleep(0.02)
    return process


def kill(process: subprocess.Popen[str]) -> set[str]:
    """Kills every process of the stage; returns the addresses that they listened on."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    addresses: set[str] = set()
    for member in family:
        try:
            listening = [link for link in member.net_connections() if link.status == psutil.CONN_LISTEN]
            addresses |= {link.laddr.ip for link in listening}
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.communicate()
    return addresses


def damage_newest(project: Project) -> int:
    """Flips one bit of the newest checkpoint; its step."""
    folder = max(project.root.glob("scratch/train/*/step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    weights = next(folder.glob("mp_rank_00_model_states.pt"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    return int(folder.name.removeprefix("step-"))


def test_a_broken_loss_stops_the_stage_and_names_the_samples(project: Project) -> None:
    base = project.root / "checkpoints/micro/base/model.safetensors"
    healthy = base.read_bytes()
    weights = load_file(base)
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    save_file(weights | {name: torch.full_like(weights[name], math.nan)}, base, {"format": "pt"})
    stopped = project.run("fusion", "train", "micro", "stage1", check=False)
    base.write_bytes(healthy)
    assert stopped.returncode == LossGuard.exit_code, stopped.stderr
    assert "step 1: loss is nan" in stopped.stderr and "Traceback" not in stopped.stderr
    assert not (project.root / "checkpoints/micro/stage1").exists()
    origins = [json.loads(line) for line in (project.root / LOG).with_suffix(".step-1.jsonl").read_text().splitlines()]
    manifest = pl.read_parquet(project.root / "data/manifests/micro-stage1/manifest.parquet")
    assert len(origins) == 16 and {row["sample_id"] for row in origins} <= set(manifest["sample_id"])
    (project.root / LOG).unlink()
    project.run("fusion", "scratch", "--clear", "all")
    told = project.run("fusion", "train", "micro", "stage1", "--what-was-in", "1").stdout.splitlines()
    told = told[next(number for number, line in enumerate(told) if line.startswith("step")) :]
    assert [line.split()[0] for line in told[1:]] == [row["sample_id"] for row in origins]
    beyond = project.run("fusion", "train", "micro", "stage1", "--what-was-in", "100000", check=False)
    assert beyond.returncode == 1 and "there is no step 100000" in beyond.stderr


def buffers() -> set[str]:
    return {path.name for path in FOLDER.glob(f"{PREFIX}*")}


def results(project: Project) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.root / "results/micro/stage1").iterdir()}


def test_disturbed_ranks_continue_to_the_same_weights(project: Project) -> None:
    before = buffers()
    project.run("fusion", "train", "micro", "stage1")
    undisturbed = file_sha256(project.root / WEIGHTS)
    seen = results(project)
    steps = sum("loss" in event for event in events(project))
    for folder in ("checkpoints/micro/stage1", "results/micro/stage1"):
        project.run("rm", "-r", folder)
    project.run("fusion", "scratch", "--clear", "all")
    (project.root / LOG).unlink()

    assert kill(start(project, 2)) == {"127.0.0.1"}
    assert not (project.root / WEIGHTS).exists()

    damaged = damage_newest(project)
    preempted = start(project, 1)
    preempted.send_signal(signal.SIGTERM)
    _, messages = preempted.communicate(timeout=120)
    assert preempted.returncode == Preempted.exit_code, messages
    assert f"step-{damaged} is damaged (mp_rank_00_model_states.pt does not have the sha256" in messages
    assert "the same command continues" in messages

    killed = subprocess.Popen(
        ["fusion", "train", "micro", "stage1"],
        cwd=project.root,
        env=environment(project),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (project.root / WEIGHTS).exists():
        assert killed.poll() is None
        time.sleep(0.005)
    kill(killed)
    trained = events(project)
    for folder in ("checkpoints/micro/stage1", "results/micro/stage1"):  # as DVC does, which knows nothing of them yet
        project.run("rm", "-rf", folder)
    again = project.run("fusion", "train", "micro", "stage1").stderr
    assert "was finished before" in again and events(project) == trained, "no step is trained again"
    assert buffers() <= before, "killed and finished ranks leave nothing in shared memory"
    first, second, third = (event["first_step"] for event in events(project) if event.get("event") == "start")
    assert (first, second) == (0, damaged - 4)
    assert third in range(damaged, steps) and third not in range(4, steps, 4), "saved after the step that was running"
    assert file_sha256(project.root / WEIGHTS) == undisturbed
    assert results(project) == seen, "curve, losses by source, metrics and summary"
    (state,) = (project.root / "scratch/train").iterdir()
    assert {path.name for path in state.iterdir()} == {"finished", "held.by"}
