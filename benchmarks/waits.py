"""Whether training waits for data: the model is replaced by a sleep of the planned time of a step.

    python -m benchmarks.waits [--steps 40] [--utilisation 0.4] [--pictures 600] [--output FILE]

The planned time is that of `fusion plan` for the published variant on its GPUs, for the samples that are read here: the
plan's seconds of an average step, longer or shorter by the FLOPs that this rank's micro-batches have by the plan's
formulas. `--utilisation` is the share of the GPU's dense rate that is assumed: the higher, the faster data is needed.

Scaling. A machine is assumed that has 16 cores for each GPU. Of these the cores here are a share, so they feed the same
share of a GPU: the sleep is longer by 16 over their number. A rank of its own, with the loader of training, its worker
processes and its order, reads real JPEG files of 336 to 1024 pixels from shards.

`loader_alone_seconds` is how long the same loader takes for a step when nothing sleeps: what is left in hand.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.loader import PATCHES, STAGE, VARIANT, make_processor, make_set, recipe_of
from benchmarks.manifests import ROOT
from benchmarks.report import surroundings, write_result
from fusion.data.catalog import load_catalog
from fusion.plan.api import StagePlan, make_plan
from fusion.plan.facts import stage_facts
from fusion.plan.flops import executed_flops, forward_work
from fusion.plan.load import Load
from fusion.plan.stage import UTILISATION
from fusion.quiet import quiet_libraries
from fusion.settings import load_settings
from fusion.train.batches import RankBatches, StepBatches

GPU, CORES_A_GPU = "h100", 16
WANTED = 0.03


def plan_of(folder: Path, utilisation: float) -> StagePlan:
    """The plan of the stage for the samples of the manifest below `folder`."""
    settings, catalog = load_settings(ROOT / "params.yaml"), load_catalog(ROOT / "data/catalog")
    plan = make_plan(settings, catalog, VARIANT, gpu=GPU, utilisation=utilisation, root=folder)
    return plan.stages[STAGE]  # type: ignore[index]


def step_seconds(planned: StagePlan, step: StepBatches, num_latents: int) -> float:
    """How long one GPU takes for its micro-batches of a step, by the plan."""
    model, advised = planned.model, planned.advised
    own = 0.0
    for batch in step.batches:
        if batch is not None:
            work = forward_work(model.config, Load.of_batch(batch, model.config, num_latents))
            own += sum(executed_flops(work, model.trained_parts, advised.checkpointing).values())
    return advised.seconds * own / advised.executed_flops


def measure(folder: Path, planned: StagePlan, steps: int, workers: int, cores_a_gpu: float) -> dict[str, Any]:
    """The share of the time in which the sleeping model waits for its next batches."""
    cores = len(os.sched_getaffinity(0))
    ranks = planned.model.target.gpus
    made = recipe_of(folder, ranks, workers)
    rank = RankBatches(made, make_processor(), PATCHES, 0)
    alone = _alone(rank, folder, steps)
    batches = rank(0, folder / "notes")
    next(batches)
    waited, slept, pictures, tokens = 0.0, 0.0, 0, 0
    for number in range(1, steps + 1):
        start = time.perf_counter()
        step = next(batches)
        waited += time.perf_counter() - start
        seconds = step_seconds(planned, step, made.num_latents(number)) * cores_a_gpu / cores
        time.sleep(seconds)
        slept += seconds
        pictures += sum(len(batch["pixels"]) for batch in step.batches if batch is not None)
        tokens += step.tokens
    return {
        "steps": steps,
        "workers": workers,
        "cores": cores,
        "cores_a_gpu": cores_a_gpu,
        "scaled": f"{cores} of {cores_a_gpu:g} cores feed {cores / cores_a_gpu:g} of a GPU: the planned seconds "
        f"times {cores_a_gpu / cores:g}",
        "planned_seconds_of_an_average_step": planned.advised.seconds,
        "planned_seconds_of_these_steps": slept / steps * cores / cores_a_gpu,
        "seconds_here": slept / steps,
        "loader_alone_seconds": alone,
        "pictures_a_second": pictures / slept,
        "tokens_a_step_of_all_ranks": tokens / steps,
        "share_waited": round(waited / (waited + slept), 6),
    }


def _alone(rank: RankBatches, folder: Path, steps: int) -> float:
    """Seconds a step of the loader when nobody sleeps."""
    batches: Iterator[StepBatches] = rank(0, folder / "notes")
    next(batches)
    start = time.perf_counter()
    for _ in range(steps):
        next(batches)
    return (time.perf_counter() - start) / steps


def run(
    folder: Path, pictures: int, steps: int, workers: int, utilisation: float, cores_a_gpu: float = CORES_A_GPU
) -> dict[str, Any]:
    """The result, with what the plan says of the stage."""
    make_set(folder, pictures, 200 * pictures)
    planned = plan_of(folder, utilisation)
    facts = stage_facts(planned)
    return {
        "surroundings": surroundings(),
        "variant": VARIANT,
        "stage": STAGE,
        "gpu": GPU,
        "gpus": planned.model.target.gpus,
        "utilisation": utilisation,
        "plan": {name: facts[name] for name in ("data", "advised", "time", "loader")},
        "measured": measure(folder, planned, steps, workers, cores_a_gpu),
        "wanted": {"share_waited": WANTED},
    }


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--utilisation", type=float, default=UTILISATION)
    parser.add_argument("--work", type=Path, help="folder for the pictures; a temporary one if left out")
    parser.add_argument("--output", default="waits")
    given = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.work or Path(temporary)
        result = run(folder, given.pictures, given.steps, given.workers, given.utilisation)
    print(json.dumps(result["measured"], indent=2))
    print(write_result(given.output, result))


if __name__ == "__main__":
    main()
