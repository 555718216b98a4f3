"""The loss by source and by category: sums over supervised tokens, so that means over any stretch of steps are exact.

Sums and counts are those of all ranks. They are kept for stretches of a stage, about a hundred of equal length, and are
part of a checkpoint: a stage that was interrupted ends with the same table as one that was not.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SOURCE_CURVE = "loss_by_source.csv"
COLUMNS = ("step", "category", "source", "loss", "tokens", "samples")
_STATE = "loss_by_source.json"
_STRETCHES = 100
_LAST = 10
"""The loss `at the end` is that of the last tenth of a stage."""


@dataclass(frozen=True)
class SourceSums:
    """Of each source, [sources]: cross-entropy summed over supervised tokens, the number of these, and of samples."""

    loss: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    samples: npt.NDArray[np.int64]

    @classmethod
    def none(cls, sources: int) -> SourceSums:
        """Of no samples."""
        return cls(np.zeros(sources), np.zeros(sources, np.int64), np.zeros(sources, np.int64))

    def __add__(self, other: SourceSums) -> SourceSums:
        return SourceSums(self.loss + other.loss, self.tokens + other.tokens, self.samples + other.samples)

    def of(self, chosen: Sequence[int]) -> dict[str, Any]:
        """Loss (None without a token), tokens and samples of some sources together."""
        part = list(chosen)
        tokens = int(self.tokens[part].sum())
        loss = float(self.loss[part].sum()) / tokens if tokens else None
        return {"loss": loss, "tokens": tokens, "samples": int(self.samples[part].sum())}


class SourceLosses:
    """The sums of a stage that has `steps` steps, over its sources: pairs of name and category, in their order."""

    def __init__(self, sources: Sequence[tuple[str, str]], steps: int) -> None:
        self.sources = [(name, category) for name, category in sources]
        self._steps = steps
        self._length = max(1, math.ceil(steps / _STRETCHES))
        self._stretches: dict[int, SourceSums] = {}

    def add(self, step: int, sums: SourceSums) -> None:
        """Those of the 1-based `step`."""
        last = min(math.ceil(step / self._length) * self._length, self._steps)
        self._stretches[last] = self._stretches[last] + sums if last in self._stretches else sums

    def all(self, last: int | None = None) -> SourceSums:
        """Of all steps so far, or of the `last` stretches."""
        chosen = list(self._stretches.values())
        return sum(chosen[-last:] if last else chosen, SourceSums.none(len(self.sources)))

    def groups(self) -> dict[str, list[tuple[str, int]]]:
        """Category -> names and numbers of its sources, by name."""
        found: dict[str, list[tuple[str, int]]] = {}
        for (name, category), number in sorted(zip(self.sources, range(len(self.sources)), strict=True)):
            found.setdefault(category, []).append((name, number))
        return dict(sorted(found.items()))

    def summary(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By category and by source: the mean over the stage, that over its end, tokens and samples."""
        whole, end = self.all(), self.all(max(1, len(self._stretches) // _LAST))

        def facts(chosen: list[int]) -> dict[str, Any]:
            total = whole.of(chosen)
            return {**total, "loss": _short(total["loss"]), "loss_at_the_end": _short(end.of(chosen)["loss"])}

        groups = self.groups()
        return {
            "by_category": {name: facts([number for _, number in members]) for name, members in groups.items()},
            "by_source": {name: facts([number]) for members in groups.values() for name, number in members},
        }

    def means(self, sums: SourceSums) -> dict[str, dict[str, float]]:
        """`by_source` and `by_category` -> name -> loss, where there were tokens."""
        groups = self.groups()
        parts = {
            "by_category": {name: [number for _, number in members] for name, members in groups.items()},
            "by_source": {name: [number] for members in groups.values() for name, number in members},
        }
        return {
            kind: {name: float(sums.loss[own].sum() / sums.tokens[own].sum()) for name, own in found.items()
                   if sums.tokens[own].sum()}
            for kind, found in parts.items()
        }  # fmt: skip

    def table(self) -> str:
        """For the end of a stage: a line a category, and below it one a source."""
        facts = self.summary()
        lines: list[tuple[str, ...]] = [("", "samples", "tokens", "loss", "at the end")]
        for category, members in self.groups().items():
            lines.append((category, *_told(facts["by_category"][category])))
            lines += [(f"  {name}", *_told(facts["by_source"][name])) for name, _ in members]
        wide = [max(len(line[column]) for line in lines) for column in range(5)]
        return "\n".join(
            "  ".join(cell.ljust(width) if not column else cell.rjust(width)
                      for column, (cell, width) in enumerate(zip(line, wide, strict=True)))
            for line in lines
        )  # fmt: skip

    def write_curve(self, path: Path) -> None:
        """A CSV file with a row for each source in each stretch, `step` its last one."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for step, sums in self._stretches.items():
                for category, members in self.groups().items():
                    for name, number in members:
                        facts = sums.of([number])
                        if facts["samples"]:
                            loss = _short(facts["loss"])
                            writer.writerow(
                                (step, category, name, "" if loss is None else loss, facts["tokens"], facts["samples"])
                            )

    def save(self, folder: Path) -> None:
        """Writes all of it into a checkpoint's folder."""
        stretches = {
            step: [sums.loss.tolist(), sums.tokens.tolist(), sums.samples.tolist()]
            for step, sums in self._stretches.items()
        }
        document = {"sources": self.sources, "steps": self._steps, "stretches": stretches}
        (folder / _STATE).write_text(json.dumps(document), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> SourceLosses:
        """As `save` wrote it."""
        document = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        made = cls(document["sources"], document["steps"])
        for step, (loss, tokens, samples) in document["stretches"].items():
            made._stretches[int(step)] = SourceSums(
                np.array(loss, np.float64), np.array(tokens, np.int64), np.array(samples, np.int64)
            )
        return made


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _told(facts: dict[str, Any]) -> tuple[str, ...]:
    losses = ["-" if facts[key] is None else f"{facts[key]:.3f}" for key in ("loss", "loss_at_the_end")]
    return (f"{facts['samples']:,}", f"{facts['tokens']:,}", *losses)
