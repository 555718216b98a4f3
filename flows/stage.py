"""The task of one stage: `dvc repro --single-item` under the supervisor, its lines and its progress on the page."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.runtime import task_run
from prefect.states import Cancelled, Completed, Failed

from flows.command import Outcome, run_command, stage_command
from flows.lock import RUN_ID
from flows.page import publish_artifacts
from flows.plan import BUSY, RETRIES, RETRY_SECONDS, stage_environment
from flows.progress import ProgressWriter, Reached
from flows.selection import Kind, kind_of, read_kinds
from flows.stopping import Stop, stop_of
from fusion.lineage.stages import Stage, resolve_stages

GPU = "gpu"
"""The concurrency limit that a stage on a GPU takes a slot of."""
SLOT_WAIT_SECONDS = 5
LEASE_SECONDS = 60
"""So long a slot stays taken after its holder was killed."""

TRANSIENT = "Transient"
"""The name of a failed state after which the stage is tried again."""

IDLE_LINES = ("Use `dvc push`", "Data and pipelines are up to date", "To track the changes with git", "To enable auto")
"""What DVC says to a person at a keyboard; here it would stand after every stage."""


def may_try_again(task: Any, task_run: Any, state: State) -> bool:
    """Prefect's condition for a retry: the stage said so by its exit code, or a lock was busy."""
    return state.name == TRANSIENT


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    log_prints=False,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=may_try_again,
)
def run_stage(name: str, force: bool, root: str, run_id: str) -> State:
    """Runs one stage and hands its lines on as they come; fails with the stage's own reason in the first line."""
    logger = get_run_logger()
    folder = Path(root)
    stage, kind = resolve_stages(folder)[name], read_kinds(folder)[kind_of(name)]
    stop = stop_of(run_id)
    environment = {**stage_environment(folder), RUN_ID: run_id}

    def on_line(line: str) -> None:
        progress.see(line)
        if not line.startswith(IDLE_LINES):
            logger.info("%s", line)

    with _slot(stage, stop), ProgressWriter(_progress_artifact(name)) as progress:
        if stop.is_set():
            return _stopped(name, stop)
        outcome = run_command(stage_command(stage, force), folder, environment, on_line, stop.is_set)
    if stop.is_set():
        return _stopped(name, stop)
    if outcome.code == 0:
        publish_artifacts(stage, folder)
        return Completed(message=f"{name}: done")
    return Failed(message=f"{name}: {outcome.reason()}", name=TRANSIENT if transient(outcome, kind) else None)


def stage_task(stage: Stage) -> Any:
    """The Prefect task of one stage; it has the stage's name."""
    return run_stage.with_options(name=stage.name, task_run_name=stage.name)


def transient(outcome: Outcome, kind: Kind) -> bool:
    """Whether another try may help: a lock was busy, or the stage ended with a code that dvc.yaml declares for that."""
    return outcome.stage_code() in kind.retry_exit_codes or any(BUSY.search(line) for line in outcome.lines)


def _stopped(name: str, stop: Stop) -> State:
    return Cancelled(message=f"{name}: {stop.reason}; what it had saved stays, the next run continues")


def needs_gpu(stage: Stage) -> bool:
    """Whether a parameter `hardware` of the stage names a GPU."""
    values = (value for params in stage.params.values() for key, value in params.items() if key.endswith("hardware"))
    return any(isinstance(value, dict) and value.get("device") == "cuda" for value in values)


@contextlib.contextmanager
def _slot(stage: Stage, stop: Stop) -> Iterator[None]:
    """A slot of the limit `gpu` for a stage that needs it. Waits in short pieces, so that a run can be cancelled."""
    if not needs_gpu(stage):
        yield
        return
    with contextlib.ExitStack() as taken:
        told = False
        while not stop.is_set():
            try:
                taken.enter_context(
                    concurrency(
                        GPU, occupy=1, strict=True, timeout_seconds=SLOT_WAIT_SECONDS, lease_duration=LEASE_SECONDS,
                        raise_on_lease_renewal_failure=False,
                    )
                )  # fmt: skip
                break
            except TimeoutError:
                if not told:
                    get_run_logger().info("waits for a slot of the concurrency limit `%s`", GPU)
                    told = True
        yield


def _progress_artifact(name: str) -> Any:
    """A function that makes a progress artifact at its first call and moves it at each later one."""
    made: list[UUID] = []

    def write(reached: Reached) -> None:
        if made:
            update_progress_artifact(made[0], progress=reached.percent, description=reached.text)
        else:
            key = re.sub(r"[^a-z0-9]+", "-", f"progress-{name}".lower()).strip("-")
            new = create_progress_artifact(progress=reached.percent, key=key, description=reached.text)
            made.append(cast(UUID, new))  # A coroutine only where an event loop runs.

    return write


def try_number() -> int:
    """Which try of the task this is, from 1."""
    return int(task_run.run_count or 1)
