"""The output matrix, and cross-entropy through it without ever storing the logits of a batch."""

from __future__ import annotations

import importlib.util
from functools import cache
from importlib import metadata
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Logits are made in chunks of so many elements, in the forward and again in the backward pass. A chunk has to keep the
# device busy, and has to be small beside the rest: 32 MB in float32 on the CPU, 256 MB on an accelerator.
CHUNK_ELEMENTS = {"cpu": 1 << 23}
CHUNK_ELEMENTS_ELSEWHERE = 1 << 26
# The first release of liger-kernel whose gradients are right for losses token by token.
_LIGER = (0, 8, 5)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Per-token cross-entropy of a linear layer; keeps one log-normaliser a token instead of its logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        losses = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        norms = torch.empty_like(losses)
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            logits = F.linear(hidden[part], weight).float()
            torch.logsumexp(logits, 1, out=norms[part])
            losses[part] = norms[part] - logits.gather(1, targets[part, None]).squeeze(1)
        ctx.rows = rows
        ctx.save_for_backward(hidden, weight, targets, norms)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        hidden, weight, targets, norms = ctx.saved_tensors
        wanted_hidden, wanted_weight, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if wanted_hidden else None
        # Chunks add up in float32: a bfloat16 sum over many chunks loses small contributions.
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wanted_weight else None
        for start in range(0, hidden.shape[0], ctx.rows):
            part = slice(start, start + ctx.rows)
            slope = F.linear(hidden[part], weight).float().sub_(norms[part, None]).exp_()
            slope.scatter_add_(1, targets[part, None], slope.new_full((slope.shape[0], 1), -1.0))
            slope = slope.mul_(grad[part, None]).to(weight.dtype)
            if grad_hidden is not None:
                torch.mm(slope, weight, out=grad_hidden[part])
            if grad_weight is not None and weight.dtype == torch.float32:
                grad_weight.addmm_(slope.T, hidden[part])
            elif grad_weight is not None:
                grad_weight += slope.T @ hidden[part]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None


@cache
def has_liger() -> bool:
    """Whether liger-kernel (the extra `gpu`) is installed, in a release whose gradients are right here."""
    if importlib.util.find_spec("liger_kernel") is None or importlib.util.find_spec("triton") is None:
        return False
    version = metadata.version("liger-kernel").split(".")[:3]
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version) >= _LIGER


def _liger_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    losses: Tensor = liger_fused_linear_cross_entropy(
        hidden, weight, targets, reduction="none", accum_dtype=torch.float32
    )
    return losses


@torch.compiler.disable
def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies [n] in float32 of hidden [n, D], weight [vocabulary, D], targets int64 [n].

    The logits of a few rows at a time are all that is ever stored. On CUDA the fused kernel of liger-kernel does the
    same where it is installed. Not compiled: the number of supervised tokens, and of chunks with it, is never the same.
    """
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        hidden, weight = (tensor.to(torch.get_autocast_dtype(kind)) for tensor in (hidden, weight))
    with torch.autocast(kind, enabled=False):
        if hidden.is_cuda and has_liger() and hidden.shape[0]:
            return _liger_cross_entropy(hidden, weight, targets)
        rows = max(CHUNK_ELEMENTS.get(kind, CHUNK_ELEMENTS_ELSEWHERE) // weight.shape[0], 1)
        losses: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, targets, rows)
    return losses


class OutputHead(nn.Linear):
    """The language model's output matrix. Logits and losses both go through `forward`, so that tools which gather a
    sharded weight around a module's call see one call."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__(width, vocab_size, bias=False)

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits, or cross-entropies when targets are given.

        Args:
            hidden: [..., D]; [n, D] with targets.
            targets: int64 [n].

        Returns:
            logits [..., vocabulary] in the dtype of the weights, or losses [n] in float32.
        """
        if targets is None:
            return F.linear(hidden, self.weight)
        return linear_cross_entropy(hidden, self.weight, targets)
