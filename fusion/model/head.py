"""The output matrix, and cross-entropy through it without storing the logits of a large vocabulary."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Logits of more elements than this are computed in chunks, and again in the backward pass (64 Mi = 256 MB in float32).
CHUNK_ELEMENTS = 1 << 26


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Per-token cross-entropy of a linear layer; keeps one log-normaliser a token instead of its logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        losses, norms = [], []
        for start in range(0, hidden.shape[0], rows):
            logits = F.linear(hidden[start : start + rows], weight).float()
            norm = logits.logsumexp(1)
            losses.append(norm - logits.gather(1, targets[start : start + rows, None]).squeeze(1))
            norms.append(norm)
        ctx.rows = rows
        ctx.save_for_backward(hidden, weight, targets, torch.cat(norms))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        hidden, weight, targets, norms = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        # Chunks add up in float32: a bfloat16 sum over many chunks loses small contributions.
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, hidden.shape[0], ctx.rows):
            part = slice(start, start + ctx.rows)
            logits = F.linear(hidden[part], weight).float()
            slope = (logits - norms[part, None]).exp_()
            slope.scatter_add_(1, targets[part, None], slope.new_full((slope.shape[0], 1), -1.0))
            slope = slope.mul_(grad[part, None]).to(weight.dtype)
            grad_hidden[part] = slope @ weight
            grad_weight += slope.T @ hidden[part]
        return grad_hidden, grad_weight.to(weight.dtype), None, None


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
        rows = max(CHUNK_ELEMENTS // self.out_features, 1)
        if hidden.shape[0] <= rows:
            return F.cross_entropy(F.linear(hidden, self.weight).float(), targets, reduction="none")
        losses: Tensor = _ChunkedCrossEntropy.apply(hidden, self.weight, targets, rows)
        return losses
