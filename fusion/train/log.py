"""What a training stage writes while it runs: a progress bar, a JSON-lines log with times, a loss curve without."""

import csv
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

CURVE_COLUMNS = (
    "step", "epoch", "loss", "cross_entropy", "text_mapping", "image_mapping", "learning_rate", "vision_learning_rate",
)  # fmt: skip


CURVE = "loss.csv"


class TrainingLog:
    """Written by rank 0 only. The curve is deterministic and becomes a DVC plot; `log` carries times and rates.

    A stage that continues after `first_step` steps takes their rows from `curve`, which its checkpoint holds.
    """

    def __init__(self, log: Path, label: str, steps: int, first_step: int, curve: Path | None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._rows = [] if curve is None else _rows_before(curve, first_step)
        self._log = log.open("a" if first_step else "w", encoding="utf-8")
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=steps, initial=first_step, desc=label, unit="step", mininterval=0.5 if terminal else 15.0,
            ascii=not terminal, miniters=1, dynamic_ncols=terminal, ncols=None if terminal else 110,
        )  # fmt: skip
        self._last = time.monotonic()
        self._lock = threading.Lock()

    def event(self, kind: str, **values: Any) -> None:
        """One line that is not a step: the start, a checkpoint, the end."""
        self._write({"event": kind, **values})

    def step(self, values: dict[str, float], samples: int, tokens: int) -> None:
        """One optimiser step; `values` has the columns of the curve."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self._rows.append({name: _short(values[name]) for name in CURVE_COLUMNS})
        self._write({**values, "samples": samples, "tokens": tokens, "seconds": round(seconds, 4)})
        self._bar.set_postfix_str(
            f"loss {values['loss']:.3f}, {samples / max(seconds, 1e-9):.0f} samples/s", refresh=False
        )
        self._bar.update()

    def save_curve(self, path: Path) -> None:
        """Writes the curve so far."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, CURVE_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)

    def close(self) -> None:
        """Ends the bar and the log."""
        self._bar.close()
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
