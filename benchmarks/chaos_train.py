"""`python -m benchmarks.chaos_train`: random kills over the three training stages, and what they cost.

Stages of `micro` are trained once undisturbed, then again with a SIGKILL after every start: one rank drawn at random,
all ranks, the whole family, in the middle of writing a checkpoint, a process that reads samples while it does, or right
after the output was written. Requests to stop come between them and are counted apart. A stage that ends is compared
and started anew. The final weights and curves have to be those of the undisturbed run, byte for byte; each step has to
read the same manifest rows, as its ranks record them (see `rows_read`), and each epoch every row once. All moments
follow from `--seed` and the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import yaml

from benchmarks.report import surroundings, write_result
from benchmarks.rows_read import check_epochs, record_in, rows_read
from fusion.hashing import file_sha256
from fusion.settings import STAGES
from tests.e2e.project import ROOT, Project, copy_project

VARIANT = "micro"
EPOCHS = 12
WRITING, READING, WRITTEN = "while a checkpoint is written", "a reader while it reads", "after the output was written"
KINDS = ("one rank", "all ranks", "whole family", WRITING, READING, WRITTEN)
STOP, KILLS_A_STOP = "stop request", 5


def outcome(project: Project, stage: str) -> dict[str, Any]:
    """What a finished stage leaves: hashes, and the samples of all steps as its log has them (the last word counts)."""
    lines = (project.root / "runs" / VARIANT / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()
    steps = {line["step"]: (line["samples"], line["tokens"]) for line in map(json.loads, lines) if "loss" in line}
    return {
        "weights": file_sha256(project.root / "checkpoints" / VARIANT / stage / "model.safetensors"),
        "curve": file_sha256(project.root / "results" / VARIANT / stage / "loss.csv"),
        "steps": sorted(steps.items()),
        "rows": rows_read(project.root / "runs" / VARIANT, stage),
    }


def start(project: Project, stage: str) -> subprocess.Popen[bytes]:
    """The stage as a person starts it; what it wrote before is removed, as `dvc repro` does."""
    for name in ("checkpoints", "results"):
        shutil.rmtree(project.root / name / VARIANT / stage, ignore_errors=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # The copy of the project first; behind it what its ranks record their rows with.
    modules = f"{project.root}{os.pathsep}{ROOT}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": modules}
    return subprocess.Popen(
        ["fusion", "train", VARIANT, stage], cwd=project.root, env=environment, stderr=subprocess.DEVNULL
    )


def train(project: Project, stage: str) -> None:
    """The stage, to its end."""
    if code := start(project, stage).wait():
        raise RuntimeError(f"{stage} ended with {code}")


def ranks(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The ranks of a stage that runs."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        return [
            one
            for one in family
            if "fusion.train" in one.cmdline() and "deepspeed.launcher.launch" not in one.cmdline()
        ]
    except psutil.NoSuchProcess:
        return []


def readers(found: list[psutil.Process]) -> list[psutil.Process]:
    """The processes that read samples for these ranks and are at it now."""
    try:
        servers = [child for rank in found for child in rank.children() if "forkserver" in " ".join(child.cmdline())]
        workers = [worker for server in servers for worker in server.children()]
        return [worker for worker in workers if worker.status() in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)]
    except psutil.NoSuchProcess:
        return []


def victims(project: Project, process: subprocess.Popen[bytes], stage: str, kind: str) -> list[psutil.Process]:
    """Whom a kill of this kind is for; nobody before its moment has come."""
    found = ranks(process)
    if kind == READING:
        return readers(found)
    if kind == WRITING:
        return found if any(project.root.glob("scratch/train/*/partial-*")) else []
    if kind == WRITTEN and not (project.root / "checkpoints" / VARIANT / stage).exists():
        return []
    try:
        command = psutil.Process(process.pid)
        return [*command.children(recursive=True), command] if kind in (WRITTEN, "whole family") else found
    except psutil.NoSuchProcess:
        return []


def disturb(project: Project, stage: str, kind: str, chance: random.Random) -> bool:
    """Starts the stage and disturbs it; False when it was finished before."""
    process = start(project, stage)
    log = project.root / "runs" / VARIANT / f"{stage}.jsonl"
    size = log.stat().st_size if log.is_file() else 0
    # A stage that was killed after its output was written may have nothing left to log.
    while process.poll() is None and kind != WRITTEN and not (log.is_file() and log.stat().st_size > size):
        time.sleep(0.01)
    until = time.monotonic() + chance.uniform(0.0, 1.5)
    chosen: list[psutil.Process] = []
    while process.poll() is None and not chosen:
        if time.monotonic() > until:
            chosen = [psutil.Process(process.pid)] if kind == STOP else victims(project, process, stage, kind)
        time.sleep(0.001)
    if kind in ("one rank", READING) and chosen:
        chosen = [chance.choice(chosen)]
    hit = 0
    for victim in chosen:
        try:
            victim.send_signal(signal.SIGTERM if kind == STOP else signal.SIGKILL)
            hit += 1
        except psutil.NoSuchProcess:
            continue
    process.wait()
    return hit > 0


def forget(project: Project, stage: str) -> None:
    """Removes what a finished stage wrote, so that it starts anew."""
    for name in ("checkpoints", "results"):
        shutil.rmtree(project.root / name / VARIANT / stage)
    shutil.rmtree(project.root / "scratch" / "train")
    for path in (project.root / "runs" / VARIANT).glob("*.jsonl"):
        path.unlink()


def compare(project: Project, stage: str, expected: dict[str, Any]) -> None:
    """Raises `RuntimeError` where a finished stage differs from what it should have become."""
    found = outcome(project, stage)
    if found != expected:
        parts = {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}
        raise RuntimeError(f"{stage} differs after its kills; found and expected: {parts}")


def disturbances(kills: int, first: int, chance: random.Random) -> list[str]:
    """Kinds of so many kills in turn, the `first` one first, then requests to stop among them, in random order."""
    kinds = [KINDS[(first + number) % len(KINDS)] for number in range(kills)]
    kinds += [STOP] * (-(-kills // KILLS_A_STOP))
    chance.shuffle(kinds)
    return kinds


def samples(project: Project, stage: str) -> int:
    """Rows of the manifest that a stage is trained on, each drawn once an epoch."""
    dataset = yaml.safe_load((project.root / "params.yaml").read_text(encoding="utf-8"))["variants"][VARIANT]["data"]
    draws = pq.read_table(project.root / "data" / "manifests" / dataset[stage] / "manifest.parquet", columns=["draws"])
    if set(draws["draws"].to_pylist()) != {1}:
        raise RuntimeError(f"{dataset[stage]} has samples that are not drawn once an epoch")
    return int(draws.num_rows)


def run(folder: Path, kills: int, seed: int, epochs: int = EPOCHS) -> dict[str, Any]:
    """The whole comparison; raises `RuntimeError` where a result differs."""
    chance = random.Random(seed)
    project = copy_project(folder / "project", VARIANT)
    record_in(project.root)
    project.set("data.loading.workers", 1)
    for stage in STAGES:
        project.set(f"variants.{VARIANT}.stages.{stage}.save_every_steps", 4)
        project.set(f"variants.{VARIANT}.stages.{stage}.epochs", epochs)
    data = [f"validate@{name}" for name in ("micro-stage1", "micro-stage2")]
    project.repro(f"base@{VARIANT}", *data)
    counts: Counter[str] = Counter()
    begun, seconds = 0, {"undisturbed": 0.0, "disturbed": 0.0}
    for number, stage in enumerate(STAGES):
        began = time.monotonic()
        train(project, stage)
        seconds["undisturbed"] += time.monotonic() - began
        expected = outcome(project, stage)
        check_epochs(expected["rows"], samples(project, stage), epochs)
        forget(project, stage)
        began = time.monotonic()
        share = kills // len(STAGES) + (number < kills % len(STAGES))
        left = disturbances(share, begun, chance)
        begun += share
        while left:
            if disturb(project, stage, left[0], chance):
                counts[left.pop(0)] += 1
                print(f"{stage}: {dict(counts)}, {len(left)} left", file=sys.stderr, flush=True)
            else:
                compare(project, stage, expected)
                forget(project, stage)
        train(project, stage)
        seconds["disturbed"] += time.monotonic() - began
        compare(project, stage, expected)
    stops = counts.pop(STOP, 0)
    return {
        "what": "training stages killed at random moments and started again; see benchmarks/chaos_train.py",
        "surroundings": surroundings(),
        "seed": seed,
        "epochs": epochs,
        "kills": sum(counts.values()),
        "kills_by_kind": dict(sorted(counts.items())),
        "stop_requests": stops,
        "equal": "final weights, curves, and the manifest rows that the ranks read at every step of all three stages",
        "each_row_once_an_epoch": True,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=54, help="with SIGKILL; requests to stop come on top")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="chaos_train", help="of the result file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(write_result(given.name, run(Path(folder), given.kills, given.seed, given.epochs)))


if __name__ == "__main__":
    main()
