"""Context-aware recursive alignment decoding: latents of a question look at the tiles again, led by the question.

Source: paper section on context-aware recursive alignment decoding; design heading of the same name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from fusion.model.mapping import NewLinear


class PairLinear(NewLinear):
    """W [left ; right] without building the pairs: the left half is computed once per question."""

    def __init__(self, width: int) -> None:
        super().__init__(2 * width, width, bias=False)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:  # type: ignore[override]
        """[Q, D], [Q, q, D] -> [Q, q, D]."""
        weight_left, weight_right = self.weight.split(self.out_features, dim=1)
        return F.linear(left, weight_left).unsqueeze(1) + F.linear(right, weight_right)


@dataclass(frozen=True)
class QuestionGrid:
    """Questions sorted by picture, so that those of one picture meet its windows together.

    Attributes:
        question: int64 [I * m], which question stands at each of the m places of each picture; any one at a free place.
        place: int64 [Q], place of each question.
    """

    question: Tensor
    place: Tensor

    def to(self, device: torch.device) -> QuestionGrid:
        """The same grid on another device."""
        return QuestionGrid(*(part.to(device, non_blocking=True) for part in (self.question, self.place)))


class CrossAttention(nn.Module):
    """Attention of each latent over its own window; every projection normalises its input first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads

        def normed() -> nn.Sequential:
            return nn.Sequential(nn.LayerNorm(width, eps=1e-5), NewLinear(width, width, bias=False))

        self.q_proj = normed()
        self.k_proj = normed()
        self.v_proj = normed()
        self.o_proj = NewLinear(width, width, bias=False)

    def forward(self, queries: Tensor, context: Tensor, grid: QuestionGrid | None) -> Tensor:
        """Attend.

        Args:
            queries: [Q, q, D].
            context: [I, q, w * w, D], one window for each latent of each image.
            grid: questions sorted by image; None when question i belongs to image i for every i.

        Returns:
            [Q, q, D].
        """
        # Keys and values depend on the image alone: made once per image, and shared by its questions without copies.
        key, value = self.k_proj(context), self.v_proj(context)
        query = self.q_proj(queries)
        if grid is not None:
            query = query.index_select(0, grid.question)
        query = query.unflatten(0, (context.shape[0], -1)).transpose(1, 2)

        def heads(x: Tensor) -> Tensor:
            return x.flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(heads(query), heads(key), heads(value))
        mixed = mixed.transpose(1, 2).flatten(2).unflatten(0, (context.shape[0], -1)).transpose(1, 2).flatten(0, 1)
        return self.o_proj(mixed if grid is None else mixed.index_select(0, grid.place))


class InteractionLayer(GradientCheckpointingLayer):
    """One update of all latents of a batch."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.proj_in = PairLinear(width)
        self.proj_context = NewLinear(width, width, bias=False)
        self.cross_attn = CrossAttention(width, heads)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.proj_out = nn.ModuleDict(
            {"linear_1": NewLinear(width, width, bias=False), "linear_2": NewLinear(width, width, bias=False)}
        )

    def forward(
        self,
        hidden: Tensor,
        context: Tensor,
        question_positions: Tensor,
        latent_positions: Tensor,
        grid: QuestionGrid | None,
    ) -> Tensor:
        """Add the update to the latent positions; all others are untouched.

        Args:
            hidden: hidden states of the batch, [N, D], positions of all samples in one axis.
            context: [I, q, w * w, D].
            question_positions: int64 [Q], position of the last token before the answer.
            latent_positions: int64 [Q, q].
            grid: see CrossAttention.

        Returns:
            [N, D].
        """
        positions = latent_positions.flatten()
        question = hidden.index_select(0, question_positions)
        latents = hidden.index_select(0, positions).view(*latent_positions.shape, -1)
        pair = self.proj_in(question, latents)
        seen = self.cross_attn(pair, self.proj_context(context), grid)
        aligned = self.norm(seen + pair)
        update = self.proj_out["linear_2"](F.gelu(self.proj_out["linear_1"](aligned)))
        return hidden.index_add(0, positions, update.flatten(0, 1).to(hidden.dtype))


class InteractionBlock(nn.Module):
    """Holder of one layer under the published name `vision_sampler_layers.N.layers.0`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([InteractionLayer(width, heads)])

    def forward(self, *args: Tensor | QuestionGrid | None) -> Tensor:
        """See InteractionLayer."""
        return self.layers[0](*args)


def stitch_tiles(tiles: Tensor) -> Tensor:
    """Features of the four tiles as one map: [I, 4, g * g, D] -> [I, D, 2g, 2g] (channels last in memory)."""
    images, _, patches, width = tiles.shape
    side = math.isqrt(patches)
    quarters = tiles.view(images, 2, 2, side, side, width)
    return quarters.permute(0, 1, 3, 2, 4, 5).reshape(images, 2 * side, 2 * side, width).permute(0, 3, 1, 2)


def pool_latents(feature_map: Tensor, num_latents: int) -> Tensor:
    """Initial latents, row by row: [I, D, 2g, 2g] -> [I, q, D]."""
    pooled = F.adaptive_max_pool2d(feature_map, math.isqrt(num_latents))
    return pooled.permute(0, 2, 3, 1).flatten(1, 2)


def pool_context(feature_map: Tensor, num_latents: int, window_size: int) -> Tensor:
    """Context windows: [I, D, 2g, 2g] -> [I, q, w * w, D]; window j is the j-th w x w block of the pooled map."""
    side = math.isqrt(num_latents)
    pooled = F.adaptive_max_pool2d(feature_map, side * window_size)
    windows = pooled.permute(0, 2, 3, 1).unflatten(2, (side, window_size)).unflatten(1, (side, window_size))
    return windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def repeat_blank_tile(tile: Tensor) -> Tensor:
    """The four equal tiles of the blank picture from one: [1, V, D] -> [1, 4, V, D]."""
    return torch.stack([tile] * 4, dim=1)
