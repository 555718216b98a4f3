"""How near a step comes to what the machine can do: its matrix products and attention, timed one by one.

Every matrix product and every attention of a step is recorded with shapes and strides, forward and backward. Each
distinct one is then run alone, in the same process. The sum of these times is what the step would take if nothing else
were to do; over the step's real time it is the step's efficiency.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
_PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.addmm_}
_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: 2.0,
    # The backward pass makes scores again and has four more products of their size.
    aten._scaled_dot_product_flash_attention_for_cpu_backward: 5.0,
}
_Key = tuple[Any, tuple[Any, ...], tuple[tuple[str, Any], ...]]


class Recorder(TorchDispatchMode):
    """Counts the matrix products and attentions of what runs inside, by operator, shapes and strides."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[_Key] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket in _PRODUCTS or func.overloadpacket in _ATTENTION:
            keywords = tuple(sorted((name, _describe(value)) for name, value in kwargs.items()))
            self.calls[func, tuple(_describe(value) for value in args), keywords] += 1
        return func(*args, **kwargs)

    @property
    def flops(self) -> float:
        """Floating point operations of all calls; a multiplication and an addition are two."""
        return sum(count * _flops(key) for key, count in self.calls.items())

    def ideal_seconds(self, repeats: int = 3) -> dict[str, float]:
        """Seconds that all calls take when each distinct one runs alone: matrix products, and attention."""
        seconds = {"products": 0.0, "attention": 0.0}
        for (func, args, keywords), count in self.calls.items():
            kind = "attention" if func.overloadpacket in _ATTENTION else "products"
            given = [_make(value) for value in args]
            named = {name: _make(value) for name, value in keywords}
            seconds[kind] += count * _median_seconds(lambda f=func, a=given, k=named: f(*a, **k), repeats)
        return seconds


class _Shape(tuple[Any, ...]):
    """Sizes, strides and dtype of a tensor."""


def _describe(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Shape((tuple(value.shape), value.stride(), value.dtype))
    return value


def _make(value: Any) -> Any:
    if not isinstance(value, _Shape):
        return value
    shape, strides, dtype = value
    tensor = torch.empty_strided(shape, strides, dtype=dtype)
    return tensor.normal_() if dtype.is_floating_point else tensor.zero_()


def _flops(key: _Key) -> float:
    func, args, _ = key
    shapes = [value[0] for value in args if isinstance(value, _Shape)]
    if func.overloadpacket in _ATTENTION:
        backward = "backward" in func.overloadpacket.__name__
        query, keys = (shapes[1], shapes[2]) if backward else (shapes[0], shapes[1])
        batch, heads, length, width = query
        causal = args[7 if backward else 4] if len(args) > (7 if backward else 4) else False
        pairs = length * (length + 1) / 2 if causal else length * keys[2]
        return 2 * _ATTENTION[func.overloadpacket] * batch * heads * pairs * width
    *batch, rows, inner = shapes[-2]
    return 2.0 * (batch[0] if batch else 1) * rows * inner * shapes[-1][-1]


def _median_seconds(call: Callable[[], Any], repeats: int) -> float:
    call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
