"""Every way in which a training stage can end before its time, provoked: exit code, message, and what comes after."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from fusion.hashing import file_sha256
from fusion.train.errors import LossGuard, NoRoom, OutOfMemory, Preempted, Stalled, TrainingError
from tests.e2e.project import Project, copy_project

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

TRAIN = ("fusion", "train", "micro", "stage1")
WEIGHTS = Path("checkpoints/micro/stage1/model.safetensors")
LOG = Path("runs/micro/stage1.jsonl")
LONGEST = 600


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """micro before its first stage, with enough steps to be disturbed in."""
    made = copy_project(tmp_path_factory.mktemp("stops") / "project", "micro")
    made.set("variants.micro.stages.stage1.save_every_steps", 4)
    made.set("variants.micro.stages.stage1.epochs", 8)
    made.repro("base@micro", "validate@micro-stage1")
    return made


@pytest.fixture
def project(ready: Project) -> Iterator[Project]:
    """With the settings of the start and nothing left of the test before."""
    before = (ready.root / "params.yaml").read_bytes()
    yield ready
    (ready.root / "params.yaml").write_bytes(before)
    ready.run("fusion", "scratch", "--clear", "all")
    ready.run("rm", "-rf", "checkpoints/micro/stage1", "results/micro/stage1", str(LOG))


def start(project: Project, *options: str) -> subprocess.Popen[str]:
    """The stage, when it has written its first checkpoint since it was started."""
    log, deadline = project.root / LOG, time.monotonic() + LONGEST
    before = checkpoints(log)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(project.root)
    process = subprocess.Popen(
        [*TRAIN, *options], cwd=project.root, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while checkpoints(log) <= before:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.01)
    return process


def checkpoints(log: Path) -> int:
    """How many the log tells of."""
    return log.read_text(encoding="utf-8").count('"event": "checkpoint"') if log.is_file() else 0


def ranks(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Those of a stage that runs, the first one first."""
    family = psutil.Process(process.pid).children(recursive=True)
    found = {one: one.environ().get("RANK") for one in family if "fusion.train" in one.cmdline()}
    return sorted((one for one, rank in found.items() if rank), key=lambda one: str(found[one]))


def end(process: subprocess.Popen[str]) -> str:
    """What a stage said, once it has ended."""
    return process.communicate(timeout=LONGEST)[1]


def test_a_rank_that_does_not_go_on(project: Project) -> None:
    project.set("guards.stall_minutes", 0.25)
    process = start(project)
    ranks(process)[1].send_signal(signal.SIGSTOP)
    told = end(process)
    assert process.returncode == Stalled.exit_code, told
    assert "rank 0 has not gone on for" in told and "waiting for other ranks" in told and "stalled" in told
    project.run(*TRAIN)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of its own, in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount anything")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path: Path, left: int) -> None:
    """Makes a file that leaves so many bytes on its disk."""
    with path.open("wb") as file:
        status = os.statvfs(path.parent)
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - left)


def test_a_disk_that_is_full_when_a_checkpoint_is_written(project: Project) -> None:
    project.run(*TRAIN)
    undisturbed = file_sha256(project.root / WEIGHTS)
    project.run("rm", "-r", "checkpoints/micro/stage1", "results/micro/stage1", str(LOG))
    disk = project.root / "scratch/train"
    with small_disk(disk, 256 << 20):
        process = start(project)
        fill(disk / "ballast", 200_000)
        told = end(process)
        assert process.returncode == NoRoom.exit_code, told
        assert "no space is left on the disk for a state" in told and "Traceback" not in told
        (disk / "ballast").unlink()
        assert list(disk.glob("*/step-*")), "the checkpoints before are there"
        project.run(*TRAIN)
        steps = [
            event for event in map(json.loads, (project.root / LOG).read_text().splitlines()) if "first_step" in event
        ]
        assert steps[-1]["first_step"] >= 4
    assert file_sha256(project.root / WEIGHTS) == undisturbed


def test_a_machine_without_enough_memory(project: Project) -> None:
    """The limit is a real one of the system, and the batch does not fit below it."""
    project.set("variants.micro.base.llm.config.intermediate_size", 400_000)
    project.set("variants.micro.hardware.ranks", 1)
    project.set("variants.micro.hardware.micro_batch", 144)
    project.set("variants.micro.stages.stage1.global_batch", 144)
    project.run("fusion", "base", "micro")
    try:
        ended = project.run("sh", "-c", f"ulimit -v 12000000; exec {' '.join(TRAIN)}", check=False)
    finally:
        project.run("git", "checkout", "params.yaml")
        project.run("fusion", "base", "micro")
    assert ended.returncode == OutOfMemory.exit_code, ended.stderr
    assert "ran out of memory" in ended.stderr and "lower hardware.micro_batch" in ended.stderr


def test_gpus_that_are_not_there(project: Project) -> None:
    project.set("variants.micro.hardware.device", "cuda")
    project.set("variants.micro.hardware.ranks", 16)
    ended = project.run(*TRAIN, check=False, CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == TrainingError.exit_code
    assert "asks for 16 rank(s) on GPUs of this machine" in ended.stderr and "variants.micro.hardware" in ended.stderr


def test_a_loss_that_jumps(project: Project) -> None:
    """Any step that is a little worse than the median is a jump, if the setting says so."""
    project.set("guards.max_loss_ratio", 1.0000001)
    project.set("variants.micro.stages.stage1.learning_rate", 1.0e-9)
    project.set("variants.micro.stages.stage1.vision_learning_rate", 0.0)
    ended = project.run(*TRAIN, check=False)
    assert ended.returncode == LossGuard.exit_code, ended.stderr
    assert "times the median of the last 50 steps (guards.max_loss_ratio 1)" in ended.stderr
    assert len(list((project.root / LOG).parent.glob("stage1.step-*.jsonl"))) == 1


def test_torchrun_hands_on_why_its_ranks_left(project: Project) -> None:
    process = start(project, "--launcher", "torchrun")
    process.send_signal(signal.SIGTERM)
    told = end(process)
    assert process.returncode == Preempted.exit_code, told
    assert "its state is saved" in told
    project.set("guards.stall_minutes", 0.25)
    process = start(project, "--launcher", "torchrun")
    ranks(process)[1].send_signal(signal.SIGSTOP)
    told = end(process)
    assert process.returncode == Stalled.exit_code, told


def test_a_second_request_to_stop_does_not_promise_a_state(project: Project) -> None:
    process = start(project)
    for rank in ranks(process):
        rank.send_signal(signal.SIGSTOP)  # in the middle of a step that takes long
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    told = end(process)
    assert process.returncode == Preempted.exit_code
    assert "second request to stop" in told and "is saved" not in told


def test_a_state_of_two_ranks_continues_on_one(project: Project) -> None:
    process = start(project)
    process.send_signal(signal.SIGTERM)
    assert "its state is saved" in end(process)
    project.set("variants.micro.hardware.ranks", 1)
    told = project.run(*TRAIN).stderr
    assert "the state of 2 rank(s) after step" in told
    assert "continues on 1 rank(s) through the universal checkpoint (ranks 2 -> 1)" in told
    summary = json.loads((project.root / "results/micro/stage1/summary.json").read_text(encoding="utf-8"))
    assert [part["ranks"] for part in summary["layouts"]] == [2, 1]
