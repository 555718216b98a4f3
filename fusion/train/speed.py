"""How fast training goes: what was done a second, lately and in all, and what share of the devices it is.

Utilisation is counted as usual: FLOPs of the model, without those of recomputation, over the dense rate of the devices
in bfloat16. It is told where the device is in fusion/plan/gpus.yaml, and nowhere else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from fusion.plan.gpus import recognised
from fusion.train.recipe import Recipe

_WINDOW = 50


class _Point(NamedTuple):
    """A moment, and what was done until then."""

    seconds: float
    samples: int
    tokens: int
    flops: float


def devices_rate(recipe: Recipe) -> float | None:
    """FLOP/s of all devices of a stage together, dense in bfloat16; None on processors and on unknown GPUs."""
    if recipe.hardware.device != "cuda":
        return None
    import torch

    gpu = recognised(torch.cuda.get_device_name())
    return None if gpu is None else 1e12 * gpu.tflops * recipe.hardware.ranks


class Speed:
    """Counts from when it is made; `rate` is that of all devices in FLOP/s, None where nobody knows."""

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._first = _Point(clock(), 0, 0, 0.0)
        self._points = deque([self._first], maxlen=_WINDOW + 1)

    def step(self, samples: int, tokens: int, flops: float) -> float:
        """A step has ended, with these numbers of all ranks; the seconds that it took."""
        last = self._points[-1]
        point = _Point(self._clock(), last.samples + samples, last.tokens + tokens, last.flops + flops)
        self._points.append(point)
        return point.seconds - last.seconds

    def lately(self) -> dict[str, float]:
        """Rates over the last steps: `tokens_a_second`, `samples_a_second`, `tflops`, and `mfu` where it is known."""
        return self._between(self._points[0], self._points[-1])

    def in_all(self) -> dict[str, float]:
        """Rates over all steps, and their `seconds`."""
        last = self._points[-1]
        return {"seconds": last.seconds - self._first.seconds, **self._between(self._first, last)}

    def _between(self, first: _Point, last: _Point) -> dict[str, float]:
        seconds = max(last.seconds - first.seconds, 1e-9)
        flops = (last.flops - first.flops) / seconds
        rates = {
            "tokens_a_second": (last.tokens - first.tokens) / seconds,
            "samples_a_second": (last.samples - first.samples) / seconds,
            "tflops": flops / 1e12,
        }
        return rates if self._rate is None else {**rates, "mfu": flops / self._rate}


def told(rates: dict[str, float]) -> str:
    """Rates for a person: `12,345 tokens/s, 80 samples/s, 41.2% MFU`; TFLOP/s where utilisation is not known."""
    use = f"{rates['mfu']:.1%} MFU" if "mfu" in rates else f"{rates['tflops']:.3g} TFLOP/s"
    return f"{rates['tokens_a_second']:,.0f} tokens/s, {rates['samples_a_second']:.3g} samples/s, {use}"
