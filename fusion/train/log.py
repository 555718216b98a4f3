"""What a training stage writes while it runs: progress, a JSON-lines log with times, a loss curve without, trackers."""

import csv
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from fusion.progress import Progress, duration
from fusion.train.recipe import Recipe
from fusion.train.sources import SourceLosses, SourceSums
from fusion.train.speed import Speed, devices_rate, told
from fusion.train.step import StepOutcome
from fusion.train.trackers import Trackers

CURVE_COLUMNS = (
    "step", "epoch", "loss", "cross_entropy", "text_mapping", "image_mapping", "learning_rate", "vision_learning_rate",
)  # fmt: skip


CURVE = "loss.csv"


class TrainingLog:
    """Written by rank 0 only. The curve is deterministic and becomes a DVC plot; `recipe.log` carries times and rates.

    A stage that continues after `first_step` steps takes what came before from the folder of its `checkpoint`.
    """

    def __init__(
        self,
        recipe: Recipe,
        sources: list[tuple[str, str]],
        steps: int,
        first_step: int,
        checkpoint: Path | None,
    ) -> None:
        recipe.log.parent.mkdir(parents=True, exist_ok=True)
        self._label, self._every = f"{recipe.variant} {recipe.stage}", recipe.tracking.every_steps
        self._steps, self._first = steps, first_step
        self._rows = [] if checkpoint is None else _rows_before(checkpoint / CURVE, first_step)
        self._sources = SourceLosses(sources, steps) if checkpoint is None else SourceLosses.load(checkpoint)
        self._lately = SourceSums.none(len(sources))
        self._found: dict[str, float] = {}
        self._log = recipe.log.open("a" if first_step else "w", encoding="utf-8")
        self._trackers = Trackers(recipe, first_step)
        rate = devices_rate(recipe)
        self._progress = Progress(self._label, "steps", steps, first_step)
        self._speed = Speed(rate)
        self._lock = threading.Lock()
        self.event(
            "start",
            recipe=recipe.as_dict(),
            steps=steps,
            first_step=first_step,
            ranks=recipe.hardware.ranks,
            flops_a_second_of_devices=rate,
        )

    def event(self, kind: str, **values: Any) -> None:
        """One line that is not a step: the start, a checkpoint, the end."""
        self._write({"event": kind, **values})

    def step(self, values: dict[str, float], outcome: StepOutcome, samples: int, tokens: int) -> None:
        """One optimiser step; `values` has the columns of the curve."""
        step = int(values["step"])
        seconds = self._speed.step(samples, tokens, outcome.flops)
        self._rows.append({name: _short(values[name]) for name in CURVE_COLUMNS})
        self._sources.add(step, outcome.sources)
        self._lately += outcome.sources
        self._write(
            {**values, "samples": samples, "tokens": tokens, "flops": outcome.flops, "seconds": round(seconds, 4)}
        )
        rates = self._speed.lately()
        self._progress.note = f"loss {values['loss']:.3f}, {told(rates)}"
        self._progress.advance(1)
        if step % self._every == 0 or step == self._steps:
            self._tell(step, values, rates)

    def checkup(self, step: int, facts: dict[str, Any]) -> None:
        """What a benchmark gave for the weights after `step`, an earlier one, or why it gave nothing.

        Trackers cannot go back to that step: they get it with the numbers that are told next.
        """
        self.event("checkup", step=step, **facts)
        if "accuracy" in facts:
            self._found |= {f"checkup/{facts['benchmark']}": facts["accuracy"], "checkup/step": float(step)}

    def _tell(self, step: int, values: dict[str, float], rates: dict[str, float]) -> None:
        """What is told every few steps: rates, and the loss by source since the last time."""
        means = self._sources.means(self._lately)
        self._lately = SourceSums.none(len(self._sources.sources))
        self.event("rates", step=step, **{name: float(_short(rate)) for name, rate in rates.items()}, **means)
        scalars = {f"training/{name}": values[name] for name in CURVE_COLUMNS[2:]}
        scalars |= {f"speed/{name}": rate for name, rate in rates.items()}
        scalars |= {f"loss_{kind}/{name}": loss for kind, losses in means.items() for name, loss in losses.items()}
        self._trackers.log(step, scalars | self._found)
        self._found = {}

    def save(self, folder: Path) -> None:
        """Writes the curve and the losses by source so far into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self._trackers.flush()
        self._sources.save(folder)
        with (folder / CURVE).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, CURVE_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)

    def leave(self) -> None:
        """Ends the trackers, at the end of a stage or before: a rank that stops waits for no thread of theirs."""
        if self._found:  # it came after the last step
            self._trackers.log(self._steps + 1, self._found)
        self._trackers.close()

    def close(self) -> None:
        """Ends progress and log, and tells the stage's losses by source."""
        rates = self._speed.in_all()
        self.event("end", **{name: float(_short(value)) for name, value in rates.items()})
        self._progress.__exit__()
        here = f" ({self._steps - self._first:,} of them here)" if self._first else ""
        print(
            f"{self._label}: {self._steps:,} steps{here} in {duration(rates['seconds'])}, {told(rates)}\n"
            f"{self._sources.table()}",
            file=sys.stderr,
            flush=True,
        )
        self._log.close()

    def _write(self, values: dict[str, Any]) -> None:
        with self._lock:  # checkpoints are announced by another thread
            self._log.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")
            self._log.flush()


def _short(value: float) -> str:
    return f"{value:.6g}"


def _rows_before(curve: Path, first_step: int) -> list[dict[str, str]]:
    with curve.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if int(row["step"]) <= first_step]
