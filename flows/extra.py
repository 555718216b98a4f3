"""The tasks that are no stages: the report and the scores after the stages, pushing, committing and publishing.

They change no output of a stage, so DVC does not know them. Each is one command of the project, or one function of
flows/, and is a task of its own so that the page shows it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from flows import results
from flows.command import run_command
from flows.dvc_push import TRANSIENT_EXIT_CODE
from flows.errors import FlowError
from flows.lock import RUN_ID
from flows.page import score_rows, show_reports, show_scores
from flows.plan import RETRIES, RETRY_SECONDS, stage_environment
from flows.stage import TRANSIENT, may_try_again
from flows.stopping import stop_of

OPTIONS: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False, "log_prints": False}


def _command(words: list[str], root: Path, run_id: str, show: bool = True) -> tuple[State, list[str]]:
    """A command of the project under the supervisor, with its lines in the log; its state, and its lines."""
    logger = get_run_logger()
    stop = stop_of(run_id)
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if show:
            logger.info("%s", line)

    environment = {**stage_environment(root), RUN_ID: run_id}
    outcome = run_command([sys.executable, "-m", *words], root, environment, on_line, stop.is_set)
    name = " ".join(words)
    if stop.is_set():
        return Cancelled(message=f"{name}: {stop.reason}"), lines
    if outcome.code:
        again = TRANSIENT if outcome.code == TRANSIENT_EXIT_CODE else None
        return Failed(message=f"{name}: {outcome.reason()}", name=again), lines
    return Completed(message=f"{name}: done"), lines


@task(name="report", task_run_name="report", **OPTIONS)
def report(root: str, run_id: str, variants: list[str]) -> State:
    """Writes the report of each packaged variant and puts links to them on the page."""
    folder = Path(root)
    state: State = Completed(message="nothing is packaged yet")
    for variant in variants:
        if (folder / "packages" / variant).is_dir():
            state, _ = _command(["fusion.cli", "report", variant], folder, run_id)
            if not state.is_completed():
                return state
    show_reports(folder, variants)
    return state


@task(name="scores", task_run_name="scores", **OPTIONS)
def scores(root: str, run_id: str, variants: list[str]) -> State:
    """Puts the scores on the page, beside those of the model zoo."""
    folder = Path(root)
    state, lines = _command(["fusion.cli", "zoo", "--json"], folder, run_id, show=False)
    if state.is_completed():
        # Warnings of libraries may stand among the lines, which are those of both streams.
        begin = next(number for number, line in enumerate(lines) if line.startswith(("{", "[")))
        show_scores(json.JSONDecoder().raw_decode("\n".join(lines[begin:]))[0], score_rows(folder, variants))
    return state


@task(
    name="push",
    task_run_name="push",
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=may_try_again,
    **OPTIONS,
)
def push(root: str, run_id: str) -> State:
    """Pushes the data of the run to the DVC remote."""
    try:
        files = results.push(Path(root), say=get_run_logger().info, environment={RUN_ID: run_id})
    except results.PushError as error:
        return Failed(message=f"push: {error}", name=TRANSIENT if error.retryable else None)
    return Completed(message=f"push: {files} files")


@task(name="commit", task_run_name="commit", **OPTIONS)
def commit(root: str, run_id: str) -> State:
    """Commits dvc.lock and records/ on a branch of this run, when they changed."""
    try:
        branch = results.commit(Path(root), run_id)
    except FlowError as error:
        return Failed(message=f"commit: {error}")
    get_run_logger().info("%s", f"committed on the branch {branch}" if branch else "nothing changed: nothing committed")
    return Completed(message=f"commit: {branch or 'nothing changed'}")


@task(
    name="publish",
    task_run_name="publish",
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=may_try_again,
    **OPTIONS,
)
def publish(root: str, run_id: str, variants: list[str], where: str) -> State:
    """Publishes each variant: `fusion publish VARIANT`, with `--push` to the Hub; it continues what was broken off."""
    state: State = Completed(message="nothing to publish")
    for variant in variants:
        words = ["fusion.cli", "publish", variant, *(["--push"] if where == "hub" else [])]
        state, _ = _command(words, Path(root), run_id)
        if not state.is_completed():
            return state
    return state
