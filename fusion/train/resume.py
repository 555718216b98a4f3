"""Where a stage begins: at its first step, or where its newest whole checkpoint ends, on whatever ranks that was."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

from fusion.errors import FusionError
from fusion.train.layout import Layout
from fusion.train.others import begun_otherwise, keep_decisive
from fusion.train.recipe import Recipe
from fusion.train.state import ResumableState
from fusion.train.universal import convert, load_universal
from fusion.train.watch import Watch

Value = TypeVar("Value")
_BEAT_SECONDS = 5.0
_CONVERTED = "partial-universal"
"""Removed at every start, like half-written checkpoints."""


@dataclass(frozen=True)
class Beginning:
    """`steps` are done. `layouts`: from which step on the stage ran in which layout, the present one last."""

    steps: int
    layouts: list[dict[str, Any]]
    universal: bool
    """Whether the state was converted for these ranks."""


def find_beginning(recipe: Recipe, state: ResumableState, watch: Watch) -> Beginning:
    """Looks for the newest whole checkpoint and converts it if it is one of other ranks; called by all ranks.

    Raises:
        TrainingError: it cannot be converted, says what to do; or another process writes this state.
        NoRoom: the disk has no room for that.
    """
    return on_first_rank(
        lambda: _look(recipe, state), watch, "checking the state to continue from, or waiting for rank 0 to do so"
    )


def _look(recipe: Recipe, state: ResumableState) -> Beginning:
    state.hold()  # for as long as this rank lives
    state.clear_partial()
    newest, damaged = state.newest()
    for line in damaged:
        _tell(f"warning: {line}")
    now = Layout.of(recipe)
    if newest is None:
        decisive = recipe.decisive()
        keep_decisive(state.folder, decisive)
        for line in begun_otherwise(state.folder, decisive):
            _tell(f"{recipe.stage} of {recipe.variant} begins at its first step: {line}")
        return Beginning(0, [{"first_step": 0, **now.as_dict()}], False)
    layouts: list[dict[str, Any]] = state.facts(newest)["layouts"]
    before = Layout.stored(layouts[-1])
    different = before.differences(now)
    if not different:
        return Beginning(newest, layouts, False)
    universal = before.needs_conversion(now)
    _tell(
        f"{recipe.stage} of {recipe.variant}: the state of {before.ranks} rank(s) after step {newest} continues on "
        f"{now.ranks} rank(s){' through the universal checkpoint' if universal else ''} ({', '.join(different)}): the "
        "same samples follow, and sums are rounded in another way"
    )
    if universal:
        convert(state.folder / state.tag(newest), state.folder / _CONVERTED / state.tag(newest))
    return Beginning(newest, [*layouts, {"first_step": newest, **now.as_dict()}], universal)


def load_state(engine: Any, state: ResumableState, beginning: Beginning) -> None:
    """Loads the state that a stage begins with, if there is one; called by all ranks."""
    if not beginning.steps:
        return
    tag = state.tag(beginning.steps)
    if not beginning.universal:
        engine.load_checkpoint(str(state.folder), tag=tag)
        return
    load_universal(engine, state.folder / _CONVERTED, tag)
    dist.barrier()
    if dist.get_rank() == 0:
        state.clear_partial()


def on_first_rank(work: Callable[[], Value], watch: Watch, doing: str) -> Value:
    """What `work` returns on rank 0, on all ranks. An error is raised there, and a hint at it on the others.

    It may take longer than ranks are allowed to wait for each other: rank 0 says in between that it goes on.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work) if dist.get_rank() == 0 else None
        while True:
            watch.now(doing)
            if future is not None:
                wait([future], timeout=_BEAT_SECONDS)
            going: list[Any] = [future is not None and not future.done()]
            dist.broadcast_object_list(going, 0)
            if not going[0]:
                break
    error = None if future is None else future.exception()
    fault = None if error is None else type(error) if isinstance(error, FusionError) else FusionError
    outcome: list[Any] = [fault, None if future is None or error is not None else future.result()]
    dist.broadcast_object_list(outcome, 0)
    if error is not None:
        raise error
    if outcome[0] is not None:
        raise outcome[0]("rank 0 says why")  # with the same exit code, whichever rank is seen first
    value: Value = outcome[1]
    return value


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
