"""`python -m benchmarks.train_step`: time and peak memory of one forward and backward pass on the CPU, and what each
saving is worth.

Every measurement is a fresh process: model, one step to warm up, then the steps that count. Variants take turns, round
after round, so that a change of the machine's load meets all of them; ratios are taken within a round, and the median
over rounds is reported. Memory is the peak resident size of the whole process, with weights, gradients and libraries.

The measured model is a middle-sized one, see `cases.MIDDLE`. `--tiny` runs all of it in seconds, without a meaning.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import Case, cases, seeded
from benchmarks.plain_model import ITEMS, PlainFusion
from benchmarks.rates import Recorder
from benchmarks.report import surroundings, write_result
from fusion.model.modeling import FusionForConditionalGeneration

PRODUCT, PLAIN, CHECKPOINTED, PLAIN_CHECKPOINTED = "product", "plain", "product_checkpointed", "plain_checkpointed"
# What is wanted of the product beside the plain path.
TARGETS = {"seconds": 0.5, "peak_mb": 0.45, "peak_mb_checkpointed": 0.3, "efficiency": 0.75}


def build(variant: str, case: Case) -> Any:
    """The model of a variant: "product", "plain", these two "_checkpointed", or "without:ITEM"."""
    if variant.startswith(PRODUCT):
        model = seeded(FusionForConditionalGeneration, case.config())
    else:
        item = variant.removeprefix("without:")
        off = frozenset([item]) if item != variant else frozenset(ITEMS)
        model = seeded(PlainFusion, case.config()).switch_off(off)
    model.train()
    if variant.endswith("_checkpointed"):
        model.enable_activation_checkpointing()
    return model


def step(model: Any, batch: Any, num_latents: int) -> float:
    """One forward and backward pass; the loss."""
    with model.running() if isinstance(model, PlainFusion) else nullcontext():
        loss = model(batch, num_latents=num_latents).loss
        loss.backward()
    value = float(loss.detach())
    model.zero_grad()
    return value


def measure(variant: str, case: Case, steps: int) -> dict[str, float]:
    """Median seconds (wall and processor) of a step, peak memory, loss; of this process."""
    model, batch = build(variant, case), case.batch()
    if isinstance(model, PlainFusion):
        batch = model.prepare(batch)
    wall, processor = [], []
    for _ in range(1 + steps):
        start, used = time.perf_counter(), time.process_time()
        loss = step(model, batch, case.num_latents)
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    first = min(steps, 1)  # the first step warms up, unless it is the only one
    return {
        "seconds": statistics.median(wall[first:]),
        "processor_seconds": statistics.median(processor[first:]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "loss": loss,
    }


def measure_efficiency(case: Case, steps: int) -> dict[str, float]:
    """Time of the product's matrix products and attention when run alone, over the time of its step."""
    model, batch = build(PRODUCT, case), case.batch()
    with Recorder() as recorder:
        step(model, batch, case.num_latents)
    wall, ideal = [], []
    for _ in range(steps):
        start = time.perf_counter()
        step(model, batch, case.num_latents)
        wall.append(time.perf_counter() - start)
        ideal.append(recorder.ideal_seconds())
    shares = [sum(alone.values()) / taken for alone, taken in zip(ideal, wall, strict=True)]
    return {
        "efficiency": statistics.median(shares),
        "step_seconds": statistics.median(wall),
        "products_alone_seconds": statistics.median(alone["products"] for alone in ideal),
        "attention_alone_seconds": statistics.median(alone["attention"] for alone in ideal),
        "gflop": recorder.flops / 1e9,
        "gflop_per_second": recorder.flops / 1e9 / statistics.median(wall),
    }


def in_fresh_process(arguments: Sequence[str]) -> dict[str, float]:
    """The result of `--measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train_step", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(name: str, variants: Sequence[str], rounds: int, options: Sequence[str]) -> dict[str, Any]:
    """All variants of a case in turns; medians, and medians of the ratios to the plain path and to the product."""
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for number in range(rounds):
        for variant in variants:
            result = in_fresh_process(["--measure", variant, "--case", name, *options])
            found[variant].append(result)
            print(f"{name} round {number + 1} {variant}: {json.dumps(result)}", file=sys.stderr, flush=True)
    rows: dict[str, Any] = {}
    for variant, results in found.items():
        row: dict[str, float] = {key: statistics.median(result[key] for result in results) for key in results[0]}
        for base in (PLAIN, PRODUCT):
            for key in ("seconds", "processor_seconds", "peak_mb"):
                if base in found and base != variant:
                    pairs = zip(results, found[base], strict=True)
                    row[f"{key}_over_{base}"] = statistics.median(own[key] / other[key] for own, other in pairs)
        rows[variant] = {key: float(f"{value:.6g}") for key, value in row.items()}
    losses = [row["loss"] for row in rows.values()]
    if max(losses) - min(losses) > 1e-4 * abs(losses[0]):
        raise RuntimeError(f"{name}: the variants' losses differ: {dict(zip(rows, losses, strict=True))}")
    return rows


def run(rounds: int, options: Sequence[str], single: bool = True, names: Sequence[str] | None = None) -> dict[str, Any]:
    """All measurements, "base" among them always; `single`: also each saving switched off alone."""
    around = surroundings()
    whole = [PRODUCT, PLAIN, CHECKPOINTED]
    alone = {
        "base": [PLAIN_CHECKPOINTED, *(f"without:{item}" for item in ITEMS if item != "blank")],
        "vocabulary_128k": ["without:supervised"],
        "text_only_samples": ["without:blank", "without:packing"],
    }
    rows = {
        name: compare(name, whole + (more if single else []), rounds, options)
        for name, more in alone.items()
        if names is None or name in names or name == "base"
    }
    efficiency = in_fresh_process(["--measure", "efficiency", "--case", "base", *options])
    base = rows["base"]
    reached = {
        "seconds": base[PRODUCT]["seconds_over_plain"],
        "peak_mb": base[PRODUCT]["peak_mb_over_plain"],
        "peak_mb_checkpointed": base[CHECKPOINTED]["peak_mb_over_plain"],
        "efficiency": efficiency["efficiency"],
    }
    return {
        "what": "one forward and backward pass, float32, CPU; see benchmarks/train_step.py",
        "surroundings": around,
        "items": ITEMS,
        "rounds": rounds,
        "wanted": TARGETS,
        "reached": reached,
        "cases": rows,
        "efficiency": efficiency,
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of all variants")
    parser.add_argument("--steps", type=int, default=2, help="steps of each process that count, after one to warm up")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: a trial of the program, no measurement")
    parser.add_argument(
        "--whole", action="store_true", help="product and plain path only, no saving switched off alone"
    )
    parser.add_argument("--cases", nargs="+", choices=sorted(cases(True)), help="all of them unless given")
    parser.add_argument("--name", default="train_step_cpu", help="of the result file")
    parser.add_argument("--measure", help="one variant (or `efficiency`) in this process, as a line of JSON")
    parser.add_argument("--case", default="base", choices=sorted(cases(True)))
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    if given.measure:
        case = cases(given.tiny)[given.case]
        efficiency = given.measure == "efficiency"
        result = measure_efficiency(case, given.steps) if efficiency else measure(given.measure, case, given.steps)
        print(json.dumps(result))
        return
    options = ["--steps", str(given.steps), *(["--tiny"] if given.tiny else [])]
    print(write_result(given.name, run(given.rounds, options, not given.whole, given.cases)))


if __name__ == "__main__":
    main()
