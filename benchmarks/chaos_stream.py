"""Streaming that is killed at random moments: the batches of all runs together are those of one undisturbed run.

    python -m benchmarks.chaos_stream [--kills 120] [--seed 0] [--output FILE]

Each run is a process that reads a rank's batches from remote shards (file://) through the bounded cache, and writes a
digest of each step behind those of the runs before. It gets SIGKILL after a random time, also while it writes the
manifest's table or a piece of the cache; every third run finds neither. The number of ranks is that of the comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.loader import PATCHES, make_processor, make_set, recipe_of
from benchmarks.manifests import DATASET
from benchmarks.report import surroundings, write_result
from fusion.model.processing import FusionProcessor
from fusion.train.batches import RankBatches, StepBatches
from fusion.train.recipe import Recipe

SIDE = 28
RANKS = 4


def digest(step: StepBatches) -> str:
    """sha256 of all that a rank gets at a step."""
    found = hashlib.sha256(f"{step.samples} {step.tokens}".encode())
    for batch in step.batches:
        for name in sorted(batch or ()):
            found.update(name.encode() + batch[name].numpy().tobytes())  # type: ignore[index]
    return found.hexdigest()


def stream(made: Recipe, processor: FusionProcessor, out: Path) -> None:
    """Goes on behind the last whole line of `out`, a line for each step."""
    text = out.read_text(encoding="utf-8") if out.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    out.write_text(whole, encoding="utf-8")
    with out.open("a", encoding="utf-8") as file:
        for step in _steps(made, processor, whole.count("\n"), out.parent):
            file.write(digest(step) + "\n")
            file.flush()


def _steps(made: Recipe, processor: FusionProcessor, first: int, notes: Path) -> Iterator[StepBatches]:
    return RankBatches(made, processor, PATCHES, RANKS - 1)(first, notes)


def run(folder: Path, kills: int, seed: int, rows: int = 4000) -> dict[str, Any]:
    """Kills so many runs, lets the last one end, compares."""
    processor = make_processor(SIDE)
    make_set(folder, 40, rows)
    shards = {DATASET: f"file://{folder}/data/shards/{DATASET}"}
    made = recipe_of(folder, RANKS, 0)
    made = replace(
        made,
        settings=made.settings.model_copy(update={"global_batch": 16, "epochs": 1}),
        loading=made.loading.model_copy(update={"shards": shards, "cache": "scratch/shards", "cache_gb": 0.01}),
    )
    start = time.perf_counter()
    stream(made, processor, folder / "undisturbed")
    seconds = time.perf_counter() - start
    # Each run gets so far that all kills fall before the end.
    generator, context = random.Random(seed), multiprocessing.get_context("fork")
    killed, steps_at_kill = 0, []
    while killed < kills:
        if killed % 3 == 0:
            shutil.rmtree(folder / "scratch", ignore_errors=True)
        process = context.Process(target=stream, args=(made, processor, folder / "killed"))
        process.start()
        process.join(generator.uniform(0.0, 2.0 * seconds / kills))
        if process.exitcode is None:
            os.kill(process.pid or 0, signal.SIGKILL)
            killed += 1
        process.join()
        done = (folder / "killed").read_text(encoding="utf-8").count("\n") if (folder / "killed").exists() else 0
        steps_at_kill.append(done)
        if process.exitcode == 0:
            # It came to the end before all kills were done: once more from the start.
            compare(folder)
            (folder / "killed").unlink()
    stream(made, processor, folder / "killed")
    return {
        "kills": killed,
        "steps": compare(folder),
        "steps_that_were_reached": len(set(steps_at_kill)),
        "seconds_undisturbed": round(seconds, 2),
        "equal": True,
    }


def compare(folder: Path) -> int:
    """Steps of both; AssertionError unless they are equal."""
    found = [(folder / name).read_text(encoding="utf-8") for name in ("undisturbed", "killed")]
    assert found[0] == found[1], "a run that was killed gave other batches"
    return found[0].count("\n")


def main() -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="chaos_stream")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), given.kills, given.seed)
    print(result)
    print(write_result(given.output, {"surroundings": surroundings(), **result}))


if __name__ == "__main__":
    main()
