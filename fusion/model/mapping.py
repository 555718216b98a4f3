"""The two projectors between the language model's and the tower's space, and the loss that ties the spaces together.

Source: paper section on dual-supervised semantic mapping loss; design heading of the same name.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NewLinear(nn.Linear):
    """A linear layer that no base model brings: it starts from torch's default, not the decoder's narrow normal."""


class Projector(nn.Sequential):
    """Linear, exact GELU, Linear. `mm_projector` (v2t) maps 3d -> D -> D, `aux_projector` (t2v) D -> d -> d."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(NewLinear(inputs, outputs), nn.GELU(), NewLinear(outputs, outputs))


class SumCount(NamedTuple):
    """A sum over elements (`total`, float32, 0-dim) and their number (`elements`, int64, 0-dim).

    Kept apart so that a mean can be taken over a whole optimiser step: all its micro-batches on all ranks.
    """

    total: Tensor
    elements: Tensor


class LossSums(NamedTuple):
    """The three terms of the loss. Text mapping has count 0 when the tower sees no text."""

    cross_entropy: SumCount
    text_mapping: SumCount
    image_mapping: SumCount


class LossCounts(NamedTuple):
    """Number of elements of each term: supervised tokens, instruction tokens, thumbnail patches."""

    cross_entropy: int
    text_mapping: int
    image_mapping: int


def combine_losses(sums: LossSums, counts: LossCounts | None, mapping_loss_weight: float) -> Tensor:
    """cross_entropy + weight * (text mapping + image mapping), each a sum over its count; without elements it is 0.

    Args:
        sums: of one forward pass.
        counts: of the whole optimiser step, or None for those of `sums`. With the former, the values of all the
            micro-batches and ranks of a step add up to (not average to) the step's loss, and so do their gradients.
        mapping_loss_weight: factor of the two mapping terms.

    Returns:
        float32, 0-dim.
    """
    weights = (1.0, mapping_loss_weight, mapping_loss_weight)
    loss = torch.zeros_like(sums.cross_entropy.total)
    for index, (weight, pair) in enumerate(zip(weights, sums, strict=True)):
        divisor = pair.elements.clamp(min=1) if counts is None else max(counts[index], 1)
        loss = loss + weight * pair.total / divisor
    return loss


def cosine_distance(left: Tensor, right: Tensor) -> Tensor:
    """1 - cos over the last axis, in float32. Gradients flow into both sides: [..., n], [..., n] -> [...]."""
    return 1 - F.cosine_similarity(left.float(), right.float(), dim=-1)


def text_mapping_loss(embeddings: Tensor, features: Tensor) -> SumCount:
    """Distance of instruction tokens from their features after the tower, padding left out before.

    Args:
        embeddings: token embeddings of the instructions, [n, D].
        features: projected tower features of the same tokens, [n, D].
    """
    distance = cosine_distance(embeddings, features)
    return SumCount(distance.sum(), torch.full((), len(distance), device=distance.device))


def image_mapping_loss(patches: Tensor, mapped: Tensor, weights: Tensor) -> SumCount:
    """Distance of thumbnail patches from their image features mapped back.

    Args:
        patches: hidden state 0 of the tower, [R, V, d].
        mapped: t2v of the image features, [R, V, d].
        weights: how many samples each row stands for, int64 [R] (the blank picture is encoded once for many).
    """
    distance = cosine_distance(patches, mapped).sum(1)
    return SumCount((distance * weights).sum(), weights.sum() * patches.shape[1])


def no_loss(like: Tensor) -> SumCount:
    """A term without elements."""
    return SumCount(like.new_zeros((), dtype=torch.float32), like.new_zeros((), dtype=torch.int64))
