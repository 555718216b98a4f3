"""Work pools, limits and deployments on a server, and the end of runs that died while no server was there."""

import contextlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from flows.errors import FlowError
from flows.limits import create_limits, mark_dead_runs, unfinished_runs
from flows.lock import worktree_lock
from flows.supervisor import processes_with
from flows.sweep import Swept, sweep

POOLS: dict[str, int | None] = {"fusion": None, "fusion-gpu": 1}
"""Work pool -> how many runs at a time; None: as many as there are. `fusion-gpu` is for machines with a GPU."""
RUN_OF_A_WORKER = "PREFECT__FLOW_RUN_ID"


def create_pools() -> None:
    """Creates the work pools and the concurrency limits that are missing."""
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        for name, most in POOLS.items():
            pool = WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=most)
            try:
                client.create_work_pool(pool)
            except ObjectAlreadyExists:
                continue
    create_limits()


def deploy(root: Path, environment: Mapping[str, str]) -> None:
    """`prefect deploy --all` of prefect.yaml; raises `FlowError` with what it says when it fails."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    run = subprocess.run(
        command, cwd=root, env={**environment, "FUSION_PROJECT": str(root.resolve())}, capture_output=True, text=True
    )
    if run.returncode:
        lines = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]
        raise FlowError("prefect.yaml cannot be deployed: " + "\n".join(lines[-15:] or ["prefect says nothing"]))


def clear_dead_runs(root: Path) -> list[str]:
    """Sweeps the working tree if nobody has it, and ends runs of the pools whose process is gone; says what it did.

    For a server whose workers all run on this machine: a process elsewhere cannot be seen from here.
    """
    swept = Swept([], 0, [])
    with contextlib.suppress(FlowError), worktree_lock(root, "sweep"):  # A run that holds it has swept it.
        swept = sweep(root)
    told = [f"run {run} had died" for run in swept.runs] + swept.mended
    gone = [
        str(run.id)
        for run in unfinished_runs()
        if run.work_pool_name in POOLS and not processes_with(RUN_OF_A_WORKER, str(run.id))
    ]
    return told + mark_dead_runs([*swept.runs, *gone])
