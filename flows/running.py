"""The stages of one run, each as soon as what it needs is done, a few side by side."""

import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State

from flows.plan import outdated_by_parents
from flows.stage import stage_task
from flows.stopping import Stop
from flows.sweep import keep_good_lock
from fusion.lineage.stages import Stage, ancestors_of

LOOK_SECONDS = 0.3


@dataclass
class Ran:
    """What a run did: the stages that were executed, in the order in which they ended, and the first that failed."""

    executed: list[str] = field(default_factory=list)
    failed: State | None = None


def run_stages(
    selected: Sequence[Stage],
    stages: Mapping[str, Stage],
    reason: Callable[[Stage], str | None],
    stop: Stop,
    say: Callable[[str], None],
    *,
    force: bool,
    root: Path,
    run_id: str,
    parallel: int,
) -> Ran:
    """Runs the selected stages that have a reason to. After a failure nothing new starts; what runs is let end.

    `reason(stage)` says why a stage must run before anything has run; what ran in this flow can be a reason too.
    Stages of one kind of chain never overlap: one starts when all of its ancestors among the selected are done.
    """
    ran = Ran()
    names = {stage.name for stage in selected}
    waits_for = {stage.name: {one.name for one in ancestors_of(stage.name, stages)} & names for stage in selected}
    waiting = list(selected)
    done: set[str] = set()
    running: dict[concurrent.futures.Future[Any], tuple[Stage, Any]] = {}
    while (waiting and ran.failed is None and not stop.is_set()) or running:
        for stage in list(waiting):
            if ran.failed is not None or stop.is_set() or len(running) >= parallel:
                break
            if not waits_for[stage.name] <= done:
                continue
            waiting.remove(stage)
            why = "forced" if force else reason(stage) or outdated_by_parents(stage, stages, set(ran.executed), root)
            if why is None:
                done.add(stage.name)
                continue
            say(f"{stage.name}  starts ({why})")
            future = stage_task(stage).submit(stage.name, force, str(root), run_id)
            running[future.wrapped_future] = (stage, future)
        ended, _ = concurrent.futures.wait(
            running, timeout=LOOK_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for one in ended:
            stage, future = running.pop(one)
            future.wait()
            state = future.state
            if state.is_completed():
                keep_good_lock(root)
                ran.executed.append(stage.name)
                done.add(stage.name)
            elif ran.failed is None:
                ran.failed = state
    return ran
