"""The whole pipeline as one Prefect flow: `python -m flows.pipeline [--target STAGE ...] [--force] [--dry-run]`.

dvc.yaml says what there is to do and DVC decides what is up to date; Prefect says when it runs and shows it. One task
is one stage: `dvc repro --single-item STAGE` under a supervisor (flows/supervisor.py). The same stages run, in the same
order and with the same dvc.lock, as with a plain `dvc repro`.
"""

import argparse
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from flows.environment import keep_states_off_the_terminal, prepare
from flows.errors import FlowError
from flows.lock import RUN_ID, note_run, worktree_lock
from flows.plan import changes, dvc_command, outdated_by_parents, select, stage_environment
from fusion.errors import FusionError
from fusion.lineage.stages import Stage, resolve_stages

prepare(Path("."))

from prefect import flow, get_run_logger, task  # noqa: E402 - reads its settings from the environment at import
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.runtime import flow_run  # noqa: E402
from prefect.states import Completed, Failed  # noqa: E402

keep_states_off_the_terminal()

ERROR_LINE = re.compile(r"^(?:[\w.]*(?:Error|Exception)|error|Error|ERROR)\b\s*:\s*\S")

DVC_LINES = ("ERROR: failed to reproduce", "Running stage", "> ")
IDLE_LINES = ("Use `dvc push`", "Data and pipelines are up to date", "To track the changes with git", "To enable auto")
"""What DVC says to a person at a keyboard; here it would stand after every stage."""


def stage_task(stage: Stage) -> Any:
    """The Prefect task of one stage; it has the stage's name."""
    return run_stage.with_options(name=stage.name, task_run_name=stage.name)


@task(cache_policy=NO_CACHE, persist_result=False, log_prints=False)
def run_stage(name: str, force: bool, root: str, run_id: str) -> State:
    """Runs one stage and hands its lines on as they come; fails with the stage's own reason."""
    logger = get_run_logger()
    repro = dvc_command("--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), name)
    command = [sys.executable, "-m", "flows.supervisor", uuid.uuid4().hex, *repro]
    environment = {**stage_environment(Path(root)), RUN_ID: run_id}
    environment["PYTHONPATH"] = f"{Path(__file__).parents[1]}:{environment.get('PYTHONPATH', '')}".rstrip(":")
    process = subprocess.Popen(
        command, cwd=root, env=environment, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines: list[str] = []
    assert process.stdin is not None and process.stdout is not None
    try:
        for raw in process.stdout:
            line = (
                raw.decode("utf-8", "replace").rstrip("\r\n").split("\r")[-1].rstrip()
            )  # A progress bar's last state.
            if line:
                lines.append(line)
                if not line.startswith(IDLE_LINES):
                    logger.info("%s", line)
    finally:
        process.stdin.close()  # Tells the supervisor to end whatever is left.
        process.wait()
    if process.returncode == 0:
        return Completed(message=f"{name}: done")
    return Failed(message=f"{name}: {reason_of(lines, process.returncode)}")


def reason_of(lines: list[str], code: int) -> str:
    """The line that tells why a stage failed: its last error line, or else its last line, DVC's own not counted."""
    own = [line for line in lines if not line.startswith(DVC_LINES)]
    errors = [line for line in own if ERROR_LINE.match(line)]
    if errors:
        return errors[-1]
    return own[-1] if own else f"ended with exit code {code} and said nothing"


@flow(name="pipeline", log_prints=False, persist_result=False, validate_parameters=False)
def pipeline(targets: list[str] | None = None, force: bool = False, root: str = ".") -> State:
    """Brings the targets (all stages without one) up to date. A failed stage ends the flow; nothing after it runs."""
    logger = get_run_logger()
    folder = Path(root)
    run_id = str(flow_run.id)
    note_run(folder, run_id)
    stages = resolve_stages(folder)
    selected = select(stages, targets or [])
    changed = changes(folder)
    executed: set[str] = set()
    began = time.monotonic()
    for stage in selected:
        reason = "forced" if force else changed.get(stage.name) or outdated_by_parents(stage, stages, executed, folder)
        if reason is None:
            continue
        logger.info("%s  starts (%s)", stage.name, reason)
        state = stage_task(stage)(stage.name, force, root, run_id, return_state=True)
        if not state.is_completed():
            return Failed(message=state.message or f"{stage.name}: failed")
        executed.add(stage.name)
    seconds = time.monotonic() - began
    return Completed(
        message=f"{len(executed)} of {len(selected)} stages ran in {seconds:.0f} s, the others are up to date"
    )


def show_plan(targets: list[str], force: bool, root: Path) -> None:
    """Prints what a run would start, and why, without starting anything."""
    stages = resolve_stages(root)
    changed = changes(root)
    starting: set[str] = set()
    for stage in select(stages, targets):
        if force or stage.name in changed:
            starting.add(stage.name)
            print(f"{stage.name}  {'forced' if force else changed[stage.name]}")
    print(f"{len(starting)} of {len(stages)} stages would start; stages after them follow if their inputs change")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--target", action="append", default=[], metavar="STAGE", help="only this stage and what it needs"
    )
    parser.add_argument("--force", action="store_true", help="run stages that did not change, too")
    parser.add_argument("--dry-run", action="store_true", help="say what would start, and why")
    parser.add_argument("--wait", action="store_true", help="wait when another flow is running in this working tree")
    options = parser.parse_args(arguments)
    root = Path(".")
    try:
        if options.dry_run:
            show_plan(options.target, options.force, root)
            return 0
        select(resolve_stages(root), options.target)
        with worktree_lock(root, options.wait):
            state = pipeline(options.target, options.force, str(root), return_state=True)
    except (FlowError, FusionError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the running stage was ended, start again to continue", file=sys.stderr)
        return 130
    print(state.message, file=sys.stdout if state.is_completed() else sys.stderr)
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    raise SystemExit(main())
