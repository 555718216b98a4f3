"""Attention inside the parts of a packed axis: samples lie one behind the other, without padding between them.

Linear layers and norms see one long axis and need to know nothing. Attention alone must stay inside each part. On the
CPU, and wherever nothing better is there, that is one call a part on views of the packed tensors; on CUDA in half
precision it is one call of a kernel for parts of unequal length.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# The name under which the decoder's layers find `decoder_attention`.
PACKED = "fusion_packed"
IMPLEMENTATIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4")


@dataclass(frozen=True)
class Spans:
    """Consecutive parts of an axis.

    Attributes:
        lengths: of the parts, on the host: what is split needs no word from the device.
        offsets: int32 [parts + 1], where they start, and the end of the last one.
    """

    lengths: tuple[int, ...]
    offsets: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Spans:
        """Parts of these lengths."""
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        offsets[1:] = torch.tensor(list(lengths), dtype=torch.int32).cumsum(0)
        return cls(tuple(int(length) for length in lengths), offsets)

    def to(self, device: torch.device) -> Spans:
        """The same parts of an axis on another device."""
        return Spans(self.lengths, self.offsets.to(device, non_blocking=True))

    @property
    def longest(self) -> int:
        """Length of the longest part."""
        return max(self.lengths, default=0)


@dataclass(frozen=True)
class Pattern:
    """What a query may see inside its part, and how scores are made.

    Attributes:
        causal: nothing behind itself.
        window: with `causal`, only so many keys, its own included; None = all.
        scale: factor of the scores; None = 1 / sqrt(head width).
        dropout: probability that a weight is dropped.
        eager: scores and weights as tensors of their own instead of a fused kernel (softmax in float32).
    """

    causal: bool = False
    window: int | None = None
    scale: float | None = None
    dropout: float = 0.0
    eager: bool = False


def attend(
    query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, queries: Spans | None, keys: Spans | None
) -> Tensor:
    """Scaled dot-product attention inside each part.

    Args:
        query: [M, H, N, h].
        key, value: [M, G, K, h], G a divisor of H.
        pattern: what is seen.
        queries, keys: parts of the N and K positions, as many of one as of the other; M = 1 then. None = one part.

    Returns:
        [M, N, H * h].
    """
    if queries is None or keys is None:
        return _attend_one(query, key, value, pattern)
    return _attend_parts(query, key, value, pattern, queries, keys)


@torch.compiler.disable  # A compiler would make new code for every number of parts.
def _attend_parts(query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, queries: Spans, keys: Spans) -> Tensor:
    if len(queries.lengths) == 1:
        return _attend_one(query, key, value, pattern)
    if not queries.lengths:
        # No part at all (no picture in the batch): nothing attends, but gradients of zero still flow.
        return query.transpose(1, 2).flatten(2) + 0 * (key.sum() + value.sum())
    if _has_kernel(query, pattern):
        return _attend_kernel(query, key, value, pattern, queries, keys)
    parts = zip(
        query.split(queries.lengths, dim=2),
        key.split(keys.lengths, dim=2),
        value.split(keys.lengths, dim=2),
        strict=True,
    )
    return torch.cat([_attend_one(*part, pattern) for part in parts], dim=1)


def _attend_one(query: Tensor, key: Tensor, value: Tensor, pattern: Pattern) -> Tensor:
    length = query.shape[2]
    if length == 0:
        return query.transpose(1, 2).flatten(2)
    mask = None
    if pattern.window is not None and length > pattern.window:
        mask = window_mask(length, pattern.window, query.device)
    if pattern.eager:
        return _attend_eager(query, key, value, pattern, mask)
    mixed = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=pattern.dropout,
        is_causal=pattern.causal and mask is None,
        scale=pattern.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return mixed.transpose(1, 2).flatten(2)


def _attend_eager(query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, mask: Tensor | None) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if mask is None and pattern.causal:
        mask = window_mask(query.shape[2], key.shape[2], query.device)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if pattern.scale is None else pattern.scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = F.dropout(scores.float().softmax(-1).to(value.dtype), pattern.dropout)
    return (weights @ value).transpose(1, 2).flatten(2)


def window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """bool [length, length]: the `window` keys up to and including a query's own."""
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions
    return (distance >= 0) & (distance < window)


@cache
def _kernel_arguments() -> frozenset[str]:
    """Keyword arguments of torch's attention for parts of unequal length; empty where this torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def _has_kernel(query: Tensor, pattern: Pattern) -> bool:
    fits = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] <= 256
    plain = not pattern.eager and pattern.dropout == 0
    return fits and plain and {"window_size", "scale"} <= _kernel_arguments()


def _attend_kernel(query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, queries: Spans, keys: Spans) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"scale": pattern.scale, "window_size": (-1, 0 if pattern.causal else -1)}
    if pattern.window is not None:
        # The kernel counts the keys before a query's own.
        options["window_size"] = (pattern.window - 1, 0)
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in _kernel_arguments():
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    bounds = (queries.offsets, keys.offsets, queries.longest, keys.longest)
    mixed: Any = varlen_attn(query, key, value, *bounds, **options)
    return mixed.flatten(1).unsqueeze(0)


def decoder_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    spans: Spans | None = None,
    implementation: str | None = None,
    window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of the decoder's layers, in the form that transformers calls it in.

    Args:
        module: the layer's attention, unused.
        query: [B, H, N, h]; key, value: [B, G, K, h].
        attention_mask: bool, broadcastable to [B, H, N, K]; None = causal over the whole row, or inside `spans`.
        spans: parts of the N positions of a packed row (B = 1).
        implementation: one of IMPLEMENTATIONS; None = "sdpa".
        window: sliding window in positions.

    Returns:
        [B, N, H, h] and no weights.

    Raises:
        ValueError: the implementation is not one of these.
    """
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"attn_implementation: {implementation!r} is not one of {list(IMPLEMENTATIONS)}")
    heads = query.shape[1]
    groups = heads // key.shape[1]
    if query.shape[2] == 1 and spans is None:
        # One new token sees the whole cache. The heads of one key are read as its queries: nothing is repeated.
        query = query.unflatten(1, (key.shape[1], groups)).squeeze(3)
        mixed = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling)
        return mixed.flatten(1, 2).unsqueeze(1), None
    pattern = Pattern(True, window, scaling, dropout, eager=implementation == "eager")
    if attention_mask is not None:
        mixed = F.scaled_dot_product_attention(
            query, key, value, attention_mask, dropout, scale=scaling, enable_gqa=heads != key.shape[1]
        )
        return mixed.transpose(1, 2), None
    if implementation is not None and implementation.startswith("flash"):
        options: dict[str, Any] = {}
        if spans is not None:
            options = {f"cu_seq_lens_{side}": spans.offsets for side in "qk"}
            options |= {f"max_length_{side}": spans.longest for side in "qk"}
        flash = ALL_ATTENTION_FUNCTIONS[implementation]
        mixed, _weights = flash(
            module, query, key, value, None, dropout=dropout, scaling=scaling, sliding_window=window, **options
        )
        return mixed, None
    return attend(query, key, value, pattern, spans, spans).unflatten(-1, (heads, -1)), None


AttentionInterface.register(PACKED, decoder_attention)
