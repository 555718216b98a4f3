"""Guards of loss and gradients: a step that went wrong stops the stage; the origins of its samples are written down."""

import json
import math
import statistics
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fusion.train.errors import LossGuard

_WINDOW = 50


class LossWatch:
    """Compares each loss with those before it.

    Args:
        max_ratio: largest allowed multiple of the median of the last 50 losses; None = only finiteness is asked for.
    """

    def __init__(self, max_ratio: float | None) -> None:
        self._max_ratio = max_ratio
        self._last: deque[float] = deque(maxlen=_WINDOW)

    def fault(self, terms: dict[str, float], applied: bool = True) -> str | None:
        """What is wrong with the terms of a step's loss, or None. The total is `terms["loss"]`.

        `applied`: whether its gradients were finite, so that the weights could be changed.
        """
        broken = [f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
        if broken:
            return ", ".join(broken)
        if not applied:
            return "a gradient is no finite number, and the weights were left as they are"
        loss = terms["loss"]
        if self._max_ratio is not None and len(self._last) == _WINDOW:
            usual = statistics.median(self._last)
            if loss > self._max_ratio * usual:
                return (
                    f"the loss {loss:.6g} is {loss / usual:.3g} times the median of the last {_WINDOW} steps "
                    f"(guards.max_loss_ratio {self._max_ratio:g})"
                )
        self._last.append(loss)
        return None


def stop(fault: str, step: int, origins: Iterable[dict[str, Any]], path: Path) -> LossGuard:
    """The error that ends the stage, with the origins of the step's samples written to `path` (JSON lines)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(origin) + "\n" for origin in origins), encoding="utf-8")
    return LossGuard(
        f"step {step}: {fault}. The samples of the step, with their origins, are in {path}. Look at them. The same "
        "command continues from the last complete checkpoint, and so it does with other values under `guards`. A lower "
        "learning_rate, a longer warmup_ratio or max_grad_norm help against a loss that runs away; with another value "
        "of these, or with other data, the stage begins anew."
    )
