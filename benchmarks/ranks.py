"""`python -m benchmarks.ranks`: one stage on 1 to 4 ranks under ZeRO 0 to 3, beside one rank without ZeRO.

A model of a few thousand parameters is trained on pictures and texts, twelve samples a step. Every cell has to show the
same samples in every step; what its losses differ by is the rounding of sums in another order, and the table says how
much. Then stages are stopped in the middle and continued on another number of ranks or under another ZeRO stage.
Ranks are processes of their own, which do what those of `fusion train` do.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.report import surroundings, write_result
from fusion.settings import load_settings
from fusion.train.__main__ import run_rank
from fusion.train.base import build_base
from fusion.train.launch import rank_environment
from fusion.train.recipe import Recipe, make_recipe
from tests.data.workshop import DATASET, Workshop, picture, sample, talk

ROOT = Path(__file__).parents[1]
VARIANT, STAGE = "micro", "stage1"
GLOBAL_BATCH = 12
PICTURES, TEXTS = 30, 211
"""Few pictures, so that some ranks have texts alone; and one sample is left for the last step."""
RESUMED = ((2, 2, 4, 2), (4, 2, 2, 2), (2, 3, 1, 3), (1, 3, 3, 3), (2, 2, 2, 1), (3, 1, 2, 2), (2, 0, 1, 0))
"""Ranks and ZeRO stage before the stop, and after it."""
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-3}
"""Largest difference of a loss, relative to it."""
FORBIDDEN = ((2, 2, 2, 3), (2, 3, 2, 2), (2, 0, 2, 2))


class Curve(NamedTuple):
    """What a stage wrote: (samples, tokens) and loss of each step."""

    samples: list[tuple[int, int]]
    losses: list[float]


def make_project(folder: Path, epochs: int, precision: str = "fp32") -> None:
    """Data, settings and base checkpoint of the smallest model that has every part."""
    shop = Workshop(folder)
    pictures = [sample(number, f"number {number}" + " and so on" * (number % 9)) for number in range(PICTURES)]
    texts = [
        {
            "id": f"t{number}",
            "conversations": talk(f"how is text {number}?", f"number {number}" + " again" * (number % 40)),
        }
        for number in range(TEXTS)
    ]
    shop.add("pictures", pictures, {f"{number}.png": picture(number) for number in range(PICTURES)}, profile="rendered")
    shop.add("texts", texts, profile="rendered")
    shop.curate()
    shutil.copytree(ROOT / "data/tokenizers", folder / "data/tokenizers", dirs_exist_ok=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    variant = params["variants"][VARIANT]
    variant["base"]["llm"]["config"] |= {"hidden_size": 16, "intermediate_size": 32}
    variant["base"]["tower"]["config"] |= {"hidden_size": 16, "intermediate_size": 32}
    variant["data"][STAGE] = DATASET
    for stage in variant["stages"].values():
        stage |= {"global_batch": GLOBAL_BATCH, "epochs": epochs, "precision": precision, "save_every_steps": 4}
    params["data"]["loading"]["workers"] = 0
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    build_base(load_settings(folder / "params.yaml"), VARIANT, folder)


def set_cell(folder: Path, ranks: int, zero: int, offload: bool = False) -> Recipe:
    """Writes the settings of a cell; its recipe."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    variant = params["variants"][VARIANT]
    variant["hardware"] |= {"ranks": ranks, "micro_batch": 3, "threads_per_rank": 1, "offload_optimizer": offload}
    for stage in variant["stages"].values():
        stage["zero_stage"] = zero
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    return make_recipe(load_settings(path), VARIANT, STAGE, folder)


def start_ranks(recipe: Recipe, told: Path) -> list[Any]:
    """Starts the ranks of a stage on this machine, as a launcher does; what they say goes to the file `told`."""
    variables = rank_environment(recipe)
    os.environ.update(variables)  # the process that ranks are forked from has to know them before it imports torch
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fusion.train.rank", "benchmarks.ranks"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(recipe.hardware.ranks)}
    group["LOCAL_WORLD_SIZE"] = group["WORLD_SIZE"]
    started = []
    for rank in range(recipe.hardware.ranks):
        environment = {**variables, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = context.Process(target=be_rank, args=(recipe.root, recipe.variant, recipe.stage, environment, told))
        process.start()
        started.append(process)
    return started


def be_rank(root: Path, variant: str, stage: str, environment: dict[str, str], told: Path) -> None:
    """One rank, in a process that has imported what it needs."""
    os.environ.update(environment)
    os.chdir(root)
    with told.open("a") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os._exit(run_rank(variant, stage))


def train(recipe: Recipe, stop_after: int | None = None) -> tuple[int, str]:
    """Runs the ranks to their end, or asks them to stop after a few steps; exit code and what they said."""
    told = recipe.root / "told.txt"
    told.unlink(missing_ok=True)
    ranks = start_ranks(recipe, told)
    while any(rank.is_alive() for rank in ranks):
        if any(rank.exitcode for rank in ranks):
            for rank in ranks:  # those that wait for the one that is gone
                rank.join(20.0)
                rank.kill()
        if stop_after is not None and recipe.log.is_file() and recipe.log.read_bytes().count(b"\n") > stop_after:
            for rank in ranks:
                rank.terminate()
            stop_after = None
        time.sleep(0.005)
    return next((rank.exitcode for rank in ranks if rank.exitcode), 0), told.read_text(encoding="utf-8")


def curve(recipe: Recipe) -> Curve:
    """Of the stage that has just run; a step that was done twice counts as it was done last."""
    lines = map(json.loads, recipe.log.read_text(encoding="utf-8").splitlines())
    steps = {line["step"]: line for line in lines if "loss" in line}
    ordered = [steps[number] for number in sorted(steps)]
    return Curve([(line["samples"], line["tokens"]) for line in ordered], [line["loss"] for line in ordered])


def clear(recipe: Recipe) -> None:
    """Removes what a cell left."""
    for folder in (recipe.output, recipe.results, recipe.root / "scratch" / "train"):
        shutil.rmtree(folder, ignore_errors=True)
    recipe.log.unlink(missing_ok=True)


def cell(folder: Path, ranks: int, zero: int, offload: bool = False) -> Curve:
    """Trains one; raises `RuntimeError` with what the ranks said if it fails."""
    recipe = set_cell(folder, ranks, zero, offload)
    code, told = train(recipe)
    if code:
        raise RuntimeError(f"{ranks} rank(s), ZeRO {zero} ended with {code}:\n{told[-4000:]}")
    found = curve(recipe)
    clear(recipe)
    return found


def resumed(folder: Path, way: Sequence[int], stop_after: int) -> Curve:
    """Trains on some ranks, stops, and continues on others; raises `RuntimeError` if it does not continue there."""
    first = set_cell(folder, way[0], way[1])
    code, told = train(first, stop_after)
    if code != 75:
        raise RuntimeError(f"{way}: the first part ended with {code} instead of 75:\n{told[-4000:]}")
    second = set_cell(folder, way[2], way[3])
    code, told = train(second)
    if code or f"continues on {way[2]} rank(s)" not in told:
        raise RuntimeError(f"{way}: the second part ended with {code}:\n{told[-4000:]}")
    summary = json.loads((second.results / "summary.json").read_text(encoding="utf-8"))
    if [(part["ranks"], part["zero_stage"]) for part in summary["layouts"]] != [tuple(way[:2]), tuple(way[2:])]:
        raise RuntimeError(f"{way}: summary.json does not tell of it: {summary['layouts']}")
    found = curve(second)
    clear(second)
    return found


def difference(found: Curve, expected: Curve) -> float:
    """Largest difference of a step's loss, relative to it; raises `RuntimeError` if a step has other samples."""
    if found.samples != expected.samples:
        raise RuntimeError("a step has other samples")
    pairs = zip(found.losses, expected.losses, strict=True)
    return max(abs(own - other) / abs(other) for own, other in pairs)


def run(
    folder: Path,
    ranks: Sequence[int],
    stages: Sequence[int],
    ways: Sequence[Sequence[int]],
    epochs: int,
    precision: str,
) -> dict[str, Any]:
    """All cells; raises `RuntimeError` where one differs by more than the tolerance."""
    make_project(folder, epochs, precision)
    expected = cell(folder, 1, 0)
    table: dict[str, float] = {}

    def put(name: str, found: Curve) -> None:
        table[name] = float(f"{difference(found, expected):.3g}")
        print(f"{name}: {table[name]}", file=sys.stderr, flush=True)

    for zero in stages:
        for count in ranks:
            if (count, zero) != (1, 0):
                put(f"{count} rank(s), ZeRO {zero}", cell(folder, count, zero))
    for way in ways:
        name = f"{way[0]} rank(s), ZeRO {way[1]}, then {way[2]} rank(s), ZeRO {way[3]}"
        put(name, resumed(folder, way, len(expected.losses) // 3))
    worst = max(table.values())
    if worst > TOLERANCE[precision]:
        raise RuntimeError(f"the losses differ by {worst}, more than {TOLERANCE[precision]}: {table}")
    return {
        "what": "largest difference of a step's loss, relative to it, from one rank without ZeRO; the same samples in "
        "every step of every cell; see benchmarks/ranks.py",
        "surroundings": surroundings(),
        "precision": precision,
        "steps": len(expected.losses),
        "global_batch": GLOBAL_BATCH,
        "tolerance": TOLERANCE[precision],
        "largest": worst,
        "cells": table,
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3], choices=range(4), help="of ZeRO")
    parser.add_argument("--epochs", type=int, default=1, help=f"of {PICTURES + TEXTS} samples")
    parser.add_argument("--precision", choices=sorted(TOLERANCE), default="fp32")
    parser.add_argument("--name", default="ranks", help="of the result file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), given.ranks, given.stages, RESUMED, given.epochs, given.precision)
    print(write_result(given.name, result))


if __name__ == "__main__":
    main()
