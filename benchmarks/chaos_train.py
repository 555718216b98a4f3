"""`python -m benchmarks.chaos_train`: random kills over the three training stages, and what they cost.

Stages of `micro` are trained once undisturbed, then again with a kill at a random moment after every start: one rank,
all ranks, the whole family, in the middle of writing a checkpoint, while the samples of a step are read, or a request
to stop. A stage that ends before its kills are used up is compared and started anew. The final weights and curves have
to be those of the undisturbed run, byte for byte, and every step has to be computed with the same samples. All moments
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

from benchmarks.report import surroundings, write_result
from fusion.hashing import file_sha256
from fusion.settings import STAGES
from tests.e2e.project import Project, copy_project

VARIANT = "micro"
EPOCHS = 12
KINDS = ("one rank", "all ranks", "whole family", "while a checkpoint is written", "stop request")


def outcome(project: Project, stage: str) -> dict[str, Any]:
    """What a finished stage leaves: hashes, and the samples of all steps as its log has them (the last word counts)."""
    lines = (project.root / "runs" / VARIANT / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()
    steps = {line["step"]: (line["samples"], line["tokens"]) for line in map(json.loads, lines) if "loss" in line}
    return {
        "weights": file_sha256(project.root / "checkpoints" / VARIANT / stage / "model.safetensors"),
        "curve": file_sha256(project.root / "results" / VARIANT / stage / "loss.csv"),
        "steps": sorted(steps.items()),
    }


def start(project: Project, stage: str) -> subprocess.Popen[bytes]:
    """The stage as a person starts it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(project.root)}
    return subprocess.Popen(
        ["fusion", "train", VARIANT, stage], cwd=project.root, env=environment, stderr=subprocess.DEVNULL
    )


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


def disturb(project: Project, stage: str, kind: str, wait: float) -> bool:
    """Starts the stage and disturbs it; False when it was finished before."""
    process = start(project, stage)
    log = project.root / "runs" / VARIANT / f"{stage}.jsonl"
    size = log.stat().st_size if log.is_file() else 0
    while process.poll() is None and not (log.is_file() and log.stat().st_size > size):
        time.sleep(0.01)
    until = time.monotonic() + wait
    while process.poll() is None:
        writing = any(project.root.glob("scratch/train/*/partial-*"))
        if time.monotonic() > until and (kind != "while a checkpoint is written" or writing):
            break
        time.sleep(0.001 if kind == "while a checkpoint is written" else 0.01)
    if process.poll() is not None:
        return False
    if kind == "stop request":
        process.terminate()
    else:
        found = ranks(process)
        chosen = found[:1] if kind == "one rank" else found
        if kind == "whole family":
            chosen = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for victim in chosen:
            try:
                victim.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
    process.wait()
    return True


def forget(project: Project, stage: str) -> None:
    """Removes what a finished stage wrote, so that it starts anew."""
    for name in ("checkpoints", "results"):
        shutil.rmtree(project.root / name / VARIANT / stage)
    shutil.rmtree(project.root / "scratch" / "train")
    (project.root / "runs" / VARIANT / f"{stage}.jsonl").unlink()


def compare(project: Project, stage: str, expected: dict[str, Any]) -> None:
    """Raises `RuntimeError` where a finished stage differs from what it should have become."""
    found = outcome(project, stage)
    if found != expected:
        raise RuntimeError(f"{stage} differs after its kills: {found} instead of {expected}")


def run(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """The whole comparison; raises `RuntimeError` where a result differs."""
    chance = random.Random(seed)
    project = copy_project(folder / "project", VARIANT)
    for stage in STAGES:
        project.set(f"variants.{VARIANT}.stages.{stage}.save_every_steps", 4)
        project.set(f"variants.{VARIANT}.stages.{stage}.epochs", EPOCHS)
    data = [f"validate@{name}" for name in ("micro-stage1", "micro-stage2")]
    project.repro(f"base@{VARIANT}", *data)
    counts: Counter[str] = Counter()
    seconds = {"undisturbed": 0.0, "disturbed": 0.0}
    for number, stage in enumerate(STAGES):
        began = time.monotonic()
        project.run("fusion", "train", VARIANT, stage)
        took = time.monotonic() - began
        seconds["undisturbed"] += took
        expected = outcome(project, stage)
        forget(project, stage)
        began = time.monotonic()
        left = kills // len(STAGES) + (number < kills % len(STAGES))
        while left:
            kind = chance.choice(KINDS)
            if disturb(project, stage, kind, chance.uniform(0.0, 1.5)):
                counts[kind] += 1
                left -= 1
                print(f"{stage}: {kind} ({sum(counts.values())} of {kills})", file=sys.stderr, flush=True)
            else:
                compare(project, stage, expected)
                forget(project, stage)
        if not (project.root / "checkpoints" / VARIANT / stage).exists():
            project.run("fusion", "train", VARIANT, stage)
        seconds["disturbed"] += time.monotonic() - began
        compare(project, stage, expected)
    return {
        "what": "training stages killed at random moments and started again; see benchmarks/chaos_train.py",
        "surroundings": surroundings(),
        "seed": seed,
        "wanted_kills": kills,
        "kills": dict(sorted(counts.items())),
        "equal": "final weights, curves, and the samples of every step of all three stages",
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=51)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="chaos_train", help="of the result file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(write_result(given.name, run(Path(folder), given.kills, given.seed)))


if __name__ == "__main__":
    main()
