"""Ten million samples through ingest of their annotations, curation and validation: time and memory of each step.

    python -m benchmarks.curate_10m [--rows 10000000] [--against 1000000] [--workers 2] [--folder scratch/curate_10m]
        [--output FILE]

The samples are made up (benchmarks/made_up.py), with the 79 sources of the published sets and their shares; the code
is the project's own. Sharding, which decodes pictures, is not part of it: its indexes are made up too. Every step runs
in a process of its own; its memory is the largest sum of resident memory over all its processes, looked at every 0.1
seconds, so that pages that two of them share count twice. Making up the samples is not counted.

`--against` runs the same with fewer rows first: `growth` is the time of the large run over that of the small one, as a
multiple of the ratio of rows; 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from benchmarks.made_up import DATASET, Plan, write_all
from fusion.data.benchmarks import build_benchmark
from fusion.data.catalog import Catalog
from fusion.data.curate import curate_dataset
from fusion.data.curate.base import Block, load_blocks
from fusion.data.ingest import ingest_source
from fusion.data.validate import validate_dataset
from fusion.settings import Settings, load_settings

CATALOG = Path("data/catalog")
_EVERY = 0.1
_GIGABYTE = 1e9
Step = Callable[[Settings, Catalog, Path], dict[str, float]]


def ingest(settings: Settings, catalog: Catalog, root: Path) -> dict[str, float]:
    """All sources, one after the other."""
    for source in catalog.dataset(DATASET).sources:
        ingest_source(settings, catalog, dataset=DATASET, source=source, root=root)
    return {}


def curate(settings: Settings, catalog: Catalog, root: Path) -> dict[str, float]:
    """The whole of curation; returns the seconds of each block."""
    seconds: dict[str, float] = {}
    for block in load_blocks(settings.curation.blocks):
        _time(type(block), seconds)
    curate_dataset(settings, catalog, DATASET, root)
    return seconds


def validate(settings: Settings, catalog: Catalog, root: Path) -> dict[str, float]:
    """The gate."""
    validate_dataset(settings, catalog, DATASET, root)
    return {}


STEPS: dict[str, Step] = {"ingest": ingest, "curate": curate, "validate": validate}


def _time(block: type[Block], seconds: dict[str, float]) -> None:
    decide = block.rejects

    def timed(self: Block, samples: Any) -> Any:
        start = time.perf_counter()
        try:
            return decide(self, samples)
        finally:
            seconds[block.name] = round(time.perf_counter() - start, 2)

    block.rejects = timed  # type: ignore[method-assign]


def measure(plan: Plan, workers: int, root: Path) -> dict[str, Any]:
    """One run in the folder `root`, which is removed before and after."""
    shutil.rmtree(root, ignore_errors=True)
    settings, catalog = _inputs(plan, workers, root)
    start = time.perf_counter()
    expected = write_all(root, plan, settings, workers)
    print(f"{plan.rows:,} samples made up in {time.perf_counter() - start:.0f} s", flush=True)
    for name in catalog.benchmarks:
        build_benchmark(settings, catalog, name=name, root=root)
    size = sum(file.stat().st_size for file in (root / "published").iterdir())
    steps = {}
    for name in STEPS:
        steps[name] = _run(name, plan, workers, root)
        print(f"{name}: {json.dumps(steps[name])}", flush=True)
    summary = json.loads((root / "data/manifests" / DATASET / "summary.json").read_text(encoding="utf-8"))
    validation = json.loads((root / "data/validation" / DATASET / "validation.json").read_text(encoding="utf-8"))
    shutil.rmtree(root)
    seconds = sum(step["seconds"] for step in steps.values())
    return {
        "rows": plan.rows,
        "sources": len(catalog.dataset(DATASET).sources),
        "annotations_gb": round(size / _GIGABYTE, 2),
        "seconds": round(seconds, 1),
        "rows_a_second": round(plan.rows / seconds),
        "peak_gb": max(step["peak_gb"] for step in steps.values()),
        "steps": steps,
        "kept": summary["kept"],
        "found": _found(summary, expected),
        "validation": {key: validation[key] for key in ("status", "passed", "warnings", "failed")},
    }


def _inputs(plan: Plan, workers: int, root: Path) -> tuple[Settings, Catalog]:
    settings = load_settings()
    data = settings.data.model_copy(update={"roots": {DATASET: str(root / "published")}, "workers": workers})
    return settings.model_copy(update={"data": data}), plan.made_catalog()


def _found(summary: dict[str, Any], expected: Counter[str]) -> dict[str, dict[str, int]]:
    """Of each defect: how many samples were given it, and how many were dropped for its reason."""
    dropped: Counter[str] = Counter()
    for facts in summary["sources"].values():
        dropped.update(facts["reasons"])
    return {name: {"made": expected[name], "dropped": dropped[name]} for name in sorted({*expected, *dropped})}


def _run(name: str, plan: Plan, workers: int, root: Path) -> dict[str, Any]:
    """A step in a new process, watched."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_step, args=(theirs, name, plan, workers, root))
    start = time.perf_counter()
    process.start()
    theirs.close()
    watch = _Watch(process.pid or 0)
    try:
        blocks, cpu = ours.recv()
        seconds = time.perf_counter() - start
    except EOFError:
        raise SystemExit(f"the step {name} failed") from None
    finally:
        peak = watch.end()
        process.join()
    found: dict[str, Any] = {"seconds": round(seconds, 2), "rows_a_second": round(plan.rows / seconds), "peak_gb": peak}
    found["cpu_seconds"] = cpu
    return {**found, "blocks": blocks} if blocks else found


def _step(pipe: Connection, name: str, plan: Plan, workers: int, root: Path) -> None:
    blocks = STEPS[name](*_inputs(plan, workers, root), root)
    # Of this process and those that it started, which have ended.
    pipe.send((blocks, round(sum(os.times()[:4]), 2)))


class _Watch:
    """The largest resident memory of a process and all below it, in GB."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> float:
        self._ended.set()
        self._thread.join()
        return round(self._most / _GIGABYTE, 2)

    def _look(self) -> None:
        while not self._ended.wait(_EVERY):
            total = 0
            try:
                for process in (self._process, *self._process.children(recursive=True)):
                    total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            self._most = max(self._most, total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--against", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("scratch/curate_10m"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    from benchmarks.report import surroundings  # takes in torch, which no step needs

    sizes = [arguments.rows] if arguments.against is None else [arguments.against, arguments.rows]
    plans = [Plan(CATALOG.resolve(), rows) for rows in sizes]
    runs = [measure(plan, arguments.workers, arguments.folder) for plan in plans]
    report: dict[str, Any] = {"machine": surroundings(), "workers": arguments.workers, "runs": runs}
    if len(runs) == 2:
        ratio = runs[1]["rows"] / runs[0]["rows"]
        times = {name: runs[1]["steps"][name]["seconds"] / runs[0]["steps"][name]["seconds"] / ratio for name in STEPS}
        total = runs[1]["seconds"] / runs[0]["seconds"] / ratio
        report["growth"] = {"total": round(total, 3), **{name: round(value, 3) for name, value in times.items()}}
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
