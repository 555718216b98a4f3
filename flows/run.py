"""One run of a selection of stages in one working tree: lock, sweep, one `dvc status`, the stages, what follows."""

import concurrent.futures
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Crashed, Failed

from flows import extra, worktree
from flows.adopted import refuse_unlike_adopted
from flows.choices import Publish
from flows.errors import FlowError
from flows.limits import create_limits, mark_dead_runs
from flows.lock import RUN_ID, Stopped, WhenBusy, worktree_lock
from flows.page import show_plan
from flows.plan import changes
from flows.running import LOOK_SECONDS, Ran, run_stages
from flows.selection import Kind, Selection, choose, kind_of, read_kinds, refuse_stale_inputs, variants_of
from flows.stopping import Stop, Watch, stopping
from flows.supervisor import end_all, processes_with
from flows.sweep import keep_good_lock, mend_dvc_lock, order_lock, registered, sweep
from fusion.errors import FusionError
from fusion.lineage.stages import Stage, resolve_stages


@dataclass(frozen=True)
class Request:
    """What a run is asked to do."""

    selection: Selection = field(default_factory=Selection)
    dry_run: bool = False
    force: bool = False
    push: bool = False
    publish: Publish = "no"
    commit: str = ""
    when_busy: WhenBusy = "wait"
    parallel: int = 1
    root: str = "."


def carry_out(request: Request) -> State:
    """Does it inside a Prefect flow; the state says in its first line how it ended."""
    logger = get_run_logger()
    run_id = str(flow_run.id)
    try:
        root = Path(request.root)
        if request.commit:
            root = (root / worktree.FOLDER).absolute()
        with Watch(run_id) as watch, stopping(watch.stop):
            lock = worktree_lock(
                root, run_id, request.when_busy, watch.stop.wait, lambda holder: logger.info("waits for %s", holder)
            )
            with lock:
                clear_leftovers(root, run_id)
                if request.commit:
                    worktree.prepare(Path(request.root), request.commit, root)
                with registered(root, run_id):
                    return Run(request, root, run_id, watch.stop).state()
    except Stopped as error:
        return Cancelled(message=str(error))
    except (FlowError, FusionError) as error:
        return Failed(message=str(error))


def clear_leftovers(root: Path, run_id: str) -> None:
    """The sweep, with what it found in the log and the dead runs marked on the server."""
    swept = sweep(root, run_id)
    told = [f"run {one} had died" for one in swept.runs]
    if swept.processes:
        told.append(f"{swept.processes} of its processes were still there and were ended")
    if told or swept.mended:
        get_run_logger().warning("cleared: %s", "; ".join([*told, *swept.mended]))
    for sentence in mark_dead_runs(swept.runs):
        get_run_logger().warning("%s", sentence)


@dataclass
class Run:
    """A run that holds the working tree."""

    request: Request
    root: Path
    run_id: str
    stop: Stop

    def state(self) -> State:
        """Runs what has to run; the final state."""
        began = time.monotonic()
        stages, kinds = resolve_stages(self.root), read_kinds(self.root)
        selected = choose(self.request.selection, stages, kinds)
        changed = changes(self.root)
        refuse_stale_inputs(selected, stages, changed)
        refuse_unlike_adopted(selected, stages, changed)
        if self.request.dry_run:
            return self._plan(selected, changed)
        create_limits()
        keep_good_lock(self.root)
        try:
            ran = run_stages(
                selected, stages, lambda stage: changed.get(stage.name), self.stop, get_run_logger().info,
                force=self.request.force, root=self.root, run_id=self.run_id, parallel=self.request.parallel,
            )  # fmt: skip
        finally:
            # DVC alone may have been killed, while it wrote.
            if mended := mend_dvc_lock(self.root):
                get_run_logger().warning("%s", mended)
            order_lock(self.root, stages)
        ended = self._ended_early(ran) or self._ended_early(self._after(ran, selected, kinds))
        if ended is not None:
            return ended
        return Completed(
            message=f"{len(ran.executed)} of {len(selected)} stages ran in {time.monotonic() - began:.0f} s, "
            "the others are up to date"
        )

    def _plan(self, selected: list[Stage], changed: dict[str, str]) -> State:
        rows = [
            {"stage": stage.name, "why": "forced" if self.request.force else changed[stage.name]}
            for stage in selected
            if self.request.force or stage.name in changed
        ]
        for row in rows:
            get_run_logger().info("%s  would start (%s)", row["stage"], row["why"])
        show_plan(rows)
        return Completed(
            message=f"{len(rows)} of {len(selected)} stages would start; stages after them follow if inputs change"
        )

    def _ended_early(self, ran: Ran) -> State | None:
        """The run's state when it was told to stop or something failed."""
        if self.stop.is_set():
            message = f"{self.stop.reason}: the running stage was ended, the next run continues"
            return Cancelled(message=message) if self.stop.cancelled else Crashed(message=message)
        if ran.failed is not None:
            return Failed(message=ran.failed.message or "a task failed and said nothing")
        return None

    def _after(self, ran: Ran, selected: list[Stage], kinds: dict[str, Kind]) -> Ran:
        """The tasks that are no stages, one after the other; stops at the first that fails.

        What keeps the results comes before what shows them.
        """
        if self.stop.is_set() or ran.failed is not None:
            return ran
        made = {kinds[kind_of(name)].flow for name in ran.executed}
        of_run = list(self.request.selection.variants) or variants_of(resolve_stages(self.root), kinds)
        where = (str(self.root), self.run_id)
        tasks: list[tuple[Any, tuple[Any, ...]]] = []
        if self.request.push:
            tasks.append((extra.push, where))
        if self.request.commit:
            tasks.append((extra.commit, where))
        if of_run and made & {"evaluation", "publishing"}:
            tasks.append((extra.scores, (*where, of_run)))
        if of_run and "publishing" in made:
            tasks.append((extra.report, (*where, of_run)))
        if self.request.publish != "no":
            tasks.append((extra.publish, (*where, of_run, self.request.publish)))
        done = Ran()
        for task, arguments in tasks:
            future = task.submit(*arguments)
            self._wait(future)
            if not future.state.is_completed():
                done.failed = future.state
                break
        return done

    def _wait(self, future: Any) -> None:
        """Waits for a task that is no stage; when the run has to stop, ends the processes that the task has started."""
        while not concurrent.futures.wait([future.wrapped_future], timeout=LOOK_SECONDS).done:
            if self.stop.is_set():
                end_all(lambda: processes_with(RUN_ID, self.run_id))
        future.wait()
