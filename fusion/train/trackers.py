"""Experiment trackers beside the stage's own log: TensorBoard, W&B, trackio. `tracking` in params.yaml asks for them.

They are imported when they are asked for. What they get is numbers and hyperparameters: no code, no environment, no
addresses of data. What one of them cannot take is told, and training goes on without it: no result depends on it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from fusion.train.errors import TrainingError
from fusion.train.recipe import Recipe

Scalars = dict[str, float]


class Tracker(Protocol):
    """Takes the numbers of a step."""

    def log(self, step: int, values: Scalars) -> None:
        """Numbers by name, `group/name`."""

    def flush(self) -> None:
        """What was taken is to outlive this process: a checkpoint is written."""

    def close(self) -> None:
        """No more will come."""


class TensorBoard:
    """Event files; a run that continues hides what an earlier one wrote behind its first step."""

    def __init__(self, recipe: Recipe, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = str(folder / "tensorboard" / recipe.stage)
        self._writer = SummaryWriter(place, purge_step=first_step + 1, flush_secs=10)
        self._writer.add_text("recipe", f"```json\n{json.dumps(_told(recipe), indent=2)}\n```", first_step)

    def log(self, step: int, values: Scalars) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _OnceOnly:
    """Lets each step through once: W&B and trackio take nothing back, so what was told before a kill stays told."""

    def __init__(self, recipe: Recipe, folder: Path, kind: str) -> None:
        self.name = f"{recipe.variant}-{recipe.stage}-{recipe.identity()[:12]}"
        self._mark = folder / kind / f"{self.name}.step"
        self._mark.parent.mkdir(parents=True, exist_ok=True)
        self._last = int(self._mark.read_text(encoding="utf-8")) if self._mark.is_file() else 0

    def take(self, step: int) -> bool:
        """Whether the step is a new one."""
        if step <= self._last:
            return False
        self._last = step
        partial = self._mark.with_suffix(".partial")
        partial.write_text(str(step), encoding="utf-8")
        partial.replace(self._mark)
        return True


class WeightsAndBiases:
    """A run of W&B with an id of its own, so that a stage that continues continues its curves.

    Where it goes, W&B's own variables decide: WANDB_MODE (offline, disabled), WANDB_API_KEY, WANDB_ENTITY.
    """

    def __init__(self, recipe: Recipe, folder: Path, first_step: int) -> None:
        import wandb

        self._new = _OnceOnly(recipe, folder, "wandb")
        self._run = wandb.init(
            project=recipe.tracking.project,
            group=recipe.variant,
            name=f"{recipe.variant} {recipe.stage}",
            id=self._new.name,
            resume="allow",
            dir=str(folder),
            config=_told(recipe),
            # No code, git state, host or console output: only what is handed over.
            settings=wandb.Settings(
                console="off", disable_code=True, disable_git=True, host="rank 0", save_code=False, silent=True,
                x_disable_machine_info=True, x_disable_meta=True, x_disable_stats=True, x_save_requirements=False,
            ),
        )  # fmt: skip

    def log(self, step: int, values: Scalars) -> None:
        if self._new.take(step):
            self._run.log(values, step=step)

    def flush(self) -> None:
        pass  # a process of its own has it already

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of trackio, in its database below the stage's folder, or where TRACKIO_DIR says."""

    def __init__(self, recipe: Recipe, folder: Path, first_step: int) -> None:
        os.environ.setdefault("TRACKIO_DIR", str((folder / "trackio").resolve()))
        import trackio

        self._new = _OnceOnly(recipe, folder, "trackio")
        self._trackio = trackio
        trackio.init(
            project=recipe.tracking.project,
            name=self._new.name,
            group=recipe.variant,
            config=_told(recipe),
            resume="allow",
            auto_log_cpu=False,
            auto_log_gpu=False,
            embed=False,
        )

    def log(self, step: int, values: Scalars) -> None:
        if self._new.take(step):
            self._trackio.log(values, step=step)

    def flush(self) -> None:
        pass  # a thread sends it within a second

    def close(self) -> None:
        self._trackio.finish()


_KINDS: dict[str, tuple[str, Callable[[Recipe, Path, int], Tracker]]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
    "trackio": ("trackio", Trackio),
}
"""Name in params.yaml -> the package that it needs, and what speaks to it."""


class Trackers:
    """All that are asked for; rank 0 alone has them."""

    def __init__(self, recipe: Recipe, first_step: int) -> None:
        """Raises `TrainingError` when a package is missing, or a tracker cannot start."""
        check_trackers(recipe)
        folder = recipe.log.parent / "trackers"
        self._open: dict[str, Tracker] = {}
        for name in recipe.tracking.trackers:
            try:
                self._open[name] = _KINDS[name][1](recipe, folder, first_step)
            except Exception as error:  # each has its own kinds: no key, no network, an address that does not answer
                raise TrainingError(f"{name}, which tracking.trackers asks for, cannot start: {error}") from error

    def log(self, step: int, values: Scalars) -> None:
        """Hands the numbers of a step on."""
        self._each(lambda tracker: tracker.log(step, values))

    def flush(self) -> None:
        """Makes sure that a kill loses nothing of what was handed on."""
        self._each(lambda tracker: tracker.flush())

    def close(self) -> None:
        """Ends all of them."""
        self._each(lambda tracker: tracker.close())
        self._open.clear()

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                do(tracker)
            except Exception as error:  # whatever a tracker fails with, training needs none of them
                del self._open[name]
                told = f"warning: {name} takes no more numbers ({error!r}); training goes on"
                print(told, file=sys.stderr, flush=True)


def check_trackers(recipe: Recipe) -> None:
    """Raises `TrainingError` naming a tracker that is asked for and not installed, and what to install."""
    for name in recipe.tracking.trackers:
        package = _KINDS[name][0]
        if find_spec(package) is None:
            how = "the extra `trackers`" if name != "trackio" else "it in an environment of its own (docs/training.md)"
            raise TrainingError(
                f"tracking.trackers asks for {name}, and the package `{package}` is not installed: install {how}, or "
                "take it out of params.yaml"
            )


def _told(recipe: Recipe) -> dict[str, Any]:
    """The hyperparameters. Not where data lies nor how ranks start: such settings can hold what is private."""
    return {
        "variant": recipe.variant,
        "stage": recipe.stage,
        "seed": recipe.seed,
        "dataset": recipe.dataset,
        "settings": recipe.settings.model_dump(exclude={"hardware"}),
        "model": recipe.model.model_dump(),
        "hardware": recipe.hardware.model_dump(),
    }
