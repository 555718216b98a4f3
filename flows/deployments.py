"""Work pools, limits and deployments on a server, and the end of runs that died while no server was there.

`python -m flows.deployments` makes them known to the server at PREFECT_API_URL, as `make ui` does to its own.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from flows import worktree
from flows.errors import FlowError
from flows.limits import create_limits, mark_dead_runs, unfinished_runs
from flows.lock import worktree_lock
from flows.supervisor import processes_with
from flows.sweep import sweep, wait_and_end

POOLS: dict[str, int | None] = {"fusion": None, "fusion-gpu": 1}
"""Work pool -> how many runs at a time; None: as many as there are. `fusion-gpu` is for machines with a GPU."""
RUN_OF_A_WORKER = "PREFECT__FLOW_RUN_ID"
STARTING_SECONDS = 60.0
"""So long a run may be taken by a worker and have no process yet."""


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
    """Sweeps both working trees if nobody has them, and ends runs of the pools whose process is gone; says what it did.

    The trees are the checkout and that of scheduled runs. For a server whose workers all run on this machine: a process
    elsewhere cannot be seen from here.
    """
    dead: list[str] = []
    told: list[str] = []
    for tree in (root, root / worktree.FOLDER):
        if not tree.is_dir():
            continue
        with contextlib.suppress(FlowError), worktree_lock(tree, "sweep"):  # A run that holds it has swept it.
            swept = sweep(tree)
            dead += swept.runs
            told += [f"run {run} had died" for run in swept.runs] + swept.mended
    for run in unfinished_runs():
        if run.work_pool_name in POOLS and _is_gone(run):
            # Its stages do not have the name of the worker's process, but that of the run.
            if ended := wait_and_end(str(run.id)):
                told.append(f"{ended} processes of run {run.name} were still there and were ended")
            dead.append(str(run.id))
    return told + mark_dead_runs(dead)


def _is_gone(run: FlowRun) -> bool:
    """Whether a run that counts as started has no process, and has had the time to get one."""
    if processes_with(RUN_OF_A_WORKER, str(run.id)):
        return False
    state = run.state
    return state is None or datetime.now(UTC) - state.timestamp > timedelta(seconds=STARTING_SECONDS)


def main() -> int:
    """The command line; returns the exit code."""
    try:
        create_pools()
        deploy(Path("."), os.environ)
    except FlowError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"the pools {', '.join(POOLS)} and the deployments of prefect.yaml are known to {get_client().api_url}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
