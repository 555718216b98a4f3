"""`python -m benchmarks.flow_overhead`: what running through the flow adds to a stage, and a run where nothing changed.

The same project is run by `dvc repro` and by the flow, from nothing, with a server that runs already, `--rounds` times
in turn. What the flow's run takes longer, divided by the stages that it executed, is what orchestration adds; the flow
runs one stage at a time, as DVC does. A run where nothing changed is measured as a process from start to end.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.chaos_flow import FlowRun, one_server
from benchmarks.report import surroundings, write_result
from tests.e2e.project import Project, copy_project, executed


def from_nothing(project: Project) -> None:
    """Takes away all that a run has made, and DVC's cache."""
    for name in (
        "checkpoints",
        "results",
        "packages",
        "records",
        "runs",
        "reports",
        "dvc.lock",
        ".dvc/cache",
        ".dvc/tmp",
    ):
        path = project.root / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    for name in ("raw", "shards", "index", "manifests", "validation", "benchmarks"):
        shutil.rmtree(project.root / "data" / name, ignore_errors=True)


def flow_seconds(project: Project, *arguments: str) -> float:
    """Seconds of one run of the flow as a process; raises `RuntimeError` when it fails."""
    began = time.monotonic()
    code, told = FlowRun(project, *arguments).finish()
    if code:
        raise RuntimeError(told)
    return time.monotonic() - began


def measure(project: Project, rounds: int) -> dict[str, Any]:
    """All rounds; seconds."""
    by_dvc, by_flow, idle, stages = [], [], [], 0
    for _ in range(rounds):
        from_nothing(project)
        began = time.monotonic()
        stages = len(executed(project.repro()))
        by_dvc.append(time.monotonic() - began)
        from_nothing(project)
        by_flow.append(flow_seconds(project))
        idle.append(flow_seconds(project))
    added = [(flow - dvc) / stages for flow, dvc in zip(by_flow, by_dvc, strict=True)]
    return {
        "stages": stages,
        "seconds": {
            "dvc repro": [round(value, 1) for value in by_dvc],
            "flow": [round(value, 1) for value in by_flow],
            "flow, nothing changed": [round(value, 2) for value in idle],
        },
        "added_seconds_per_stage": round(statistics.median(added), 2),
        "nothing_changed_seconds": round(statistics.median(idle), 2),
        "wanted": {"added_seconds_per_stage": 2.0, "nothing_changed_seconds": 15.0},
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="micro")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="flow_overhead", help="of the result file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, one_server(Path(folder)):
        project = copy_project(Path(folder) / "project", given.variant)
        result = {
            "what": "what the flow adds to `dvc repro`; see benchmarks/flow_overhead.py",
            "surroundings": surroundings(),
            "variant": given.variant,
            "rounds": given.rounds,
            **measure(project, given.rounds),
        }
        print(write_result(given.name, result))


if __name__ == "__main__":
    main()
