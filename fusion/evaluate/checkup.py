"""A small benchmark for the weights of a stage that goes on: `python -m fusion.evaluate.checkup REQUEST ANSWER`.

A process of its own, which a rank of the training starts. It takes one thread, at the lowest priority, and ends with
whoever started it. What is written is written once, at the end.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusion.evaluate.benchmark import load_benchmark
from fusion.evaluate.score import ClusterBootstrap, is_correct
from fusion.evaluate.systems import CheckpointSystem
from fusion.files import write_json
from fusion.quiet import quiet_libraries
from fusion.settings import Settings, load_settings


def check(settings: Settings, request: dict[str, Any], root: Path = Path()) -> dict[str, Any]:
    """Accuracy with its interval; the questions are those that `fusion evaluate` would choose of so many."""
    benchmark = load_benchmark(request["benchmark"], request["questions"], settings.run.seed, root)
    chosen = settings.evaluation
    system = CheckpointSystem(request["label"], Path(request["checkpoint"]), chosen.batch_size, request["device"])
    expected = benchmark.questions["answer"].to_list()
    correct = np.array([is_correct(a, b) for a, b in zip(system.answer(benchmark), expected, strict=True)])
    clusters = benchmark.questions["image_id"].to_list()
    bootstrap = ClusterBootstrap(clusters, chosen.bootstrap_samples, chosen.confidence, settings.run.seed)
    found = bootstrap.interval(correct.astype(np.float64), np.ones(len(correct), dtype=bool))
    return {
        "benchmark": benchmark.name, "questions": len(correct),
        "accuracy": round(found.mean, 6), "low": round(found.low, 6), "high": round(found.high, 6),
    }  # fmt: skip


def _end_with_the_other_side() -> None:
    os.read(0, 1)  # nothing comes but the end; a buffered read would hold its lock when this process ends by itself
    os._exit(1)


def main() -> None:
    """Answers the request in file `argv[1]` into file `argv[2]`."""
    threading.Thread(target=_end_with_the_other_side, daemon=True).start()
    os.nice(19)
    torch.set_num_threads(1)
    quiet_libraries()
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    write_json(check(load_settings(), request), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
