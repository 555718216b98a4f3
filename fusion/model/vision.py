"""The SigLIP tower with text rows: one implementation for every SigLIP-type tower.

Two streams go through the same layers side by side: plain rows (patches alone: the tiles) and guided ones (the patches
of all thumbnails, then the projected instruction tokens of all of them, packed without padding). They are separate
tensors, never slices of one.

Source: paper section on text-guided unified vision encoding; design heading "Text-guided unified vision encoding".
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from fusion.model.configuration import FusionConfig
from fusion.model.guided import GuidedRows
from fusion.model.packing import Pattern, Spans, attend

# How the text of a guided stream takes part in one layer.
#   full: everyone sees every key of its row.  uniform: text averages all keys.  blind: patches do not see text.
TextMode = Literal["full", "uniform", "blind"]


class PatchEmbedding(nn.Conv2d):
    """A convolution whose stride is its kernel, applied as one matrix product to patches that are already cut out."""

    def forward(self, patches: Tensor) -> Tensor:
        """[M, V, 3 * p * p] -> [M, V, d]."""
        return F.linear(patches, self.weight.flatten(1), self.bias)


class PositionEmbedding(nn.Embedding):
    """Adds every patch's position embedding."""

    def forward(self, patches: Tensor) -> Tensor:
        """[M, V, d] -> [M, V, d]."""
        return patches + self.weight


class TowerAttention(nn.Module):
    """Self-attention of a tower layer."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.dropout = float(config.attention_dropout)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def _heads(self, x: Tensor) -> Tensor:
        """[M, K, d] -> [M, heads, K, d / heads]; rows of a packed stream [K, d] count as one."""
        return (x if x.dim() == 3 else x.unsqueeze(0)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, queries: Spans | None = None, keys: Spans | None = None
    ) -> Tensor:
        pattern = Pattern(dropout=self.dropout if self.training else 0.0)
        heads = (self._heads(query), self._heads(key), self._heads(value))
        return attend(*heads, pattern, queries, keys).view_as(query)

    def forward(
        self, plain: Tensor, guided: Tensor | None, rows: GuidedRows | None, mode: TextMode
    ) -> tuple[Tensor, Tensor | None]:
        """Both streams, each module called for one right after the other.

        Args:
            plain: [M, V, d].
            guided: [R * V + n, d], or None.
            rows: of `guided`.
            mode: what text does in this layer.
        """
        key, value = self.k_proj(plain), self.v_proj(plain)
        seen = self._attend(self.q_proj(plain), key, value)
        if guided is None or rows is None:
            return self.out_proj(seen), None
        key_patches, key_text = rows.split(self.k_proj(guided))
        value_patches, value_text = rows.split(self.v_proj(guided))
        key, value = rows.in_rows(key_patches, key_text), rows.in_rows(value_patches, value_text)
        if mode == "uniform":
            # All text of a row gets the same vector: the mean of the values needs no scores and one projection.
            patches, _ = rows.split(guided)
            look = self._attend(self.q_proj(patches), key, value, rows.patches, rows.keys)
            read = rows.mean(value_patches, value_text)
            look, read = self.out_proj(torch.cat([look, read])).split([len(look), len(read)])
            return self.out_proj(seen), torch.cat([look, read.index_select(0, rows.row)])
        query_patches, query_text = rows.split(self.q_proj(guided))
        if mode == "blind":
            look = self._attend(query_patches, key_patches, value_patches, rows.patches, rows.patches)
        else:
            look = self._attend(query_patches, key, value, rows.patches, rows.keys)
        query_text, padding = query_text.split([rows.num_text, rows.padding])
        read = self._attend(query_text, key, value, rows.text, rows.keys)
        # Text padding is no key here: what becomes of it matters to nobody.
        return self.out_proj(seen), self.out_proj(torch.cat([look, read, padding]))


class _GeluLinear(torch.autograd.Function):
    """Linear of GELU that keeps the input of the GELU alone: its output is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, approximate: str) -> Tensor:
        ctx.approximate = approximate
        ctx.save_for_backward(hidden, weight)
        return F.linear(F.gelu(hidden, approximate=approximate), weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        grad = grads[0].flatten(0, -2)
        hidden, weight = ctx.saved_tensors
        grad_hidden = grad_weight = None
        if ctx.needs_input_grad[1]:
            activated = F.gelu(hidden, approximate=ctx.approximate)
            grad_weight = grad.T @ activated.flatten(0, -2)
            del activated
        if ctx.needs_input_grad[0]:
            inner = (grad @ weight).view_as(hidden)
            grad_hidden = torch.ops.aten.gelu_backward(inner, hidden, approximate=ctx.approximate)
        return grad_hidden, grad_weight, grad.sum(0) if ctx.needs_input_grad[2] else None, None


class GeluLinear(nn.Linear):
    """A linear layer behind a GELU: [..., m] before the GELU -> [..., d]."""

    def __init__(self, inputs: int, outputs: int, approximate: str) -> None:
        super().__init__(inputs, outputs)
        self.approximate = approximate

    def forward(self, hidden: Tensor) -> Tensor:
        """A fifth less of a tower layer is kept for the backward pass than with two modules."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight, bias = hidden.to(dtype), weight.to(dtype), bias.to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            output: Tensor = _GeluLinear.apply(hidden, weight, bias, self.approximate)
        return output


# Activations of SigLIP towers, as torch's GELU calls them.
_GELU = {"gelu_pytorch_tanh": "tanh", "gelu": "none"}


class TowerMLP(nn.Module):
    """Feed-forward part of a tower layer."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        if config.hidden_act not in _GELU:
            raise ValueError(f"vision_config.hidden_act: {config.hidden_act!r} is not one of {sorted(_GELU)}")
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = GeluLinear(config.intermediate_size, config.hidden_size, _GELU[config.hidden_act])

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        return self.fc2(self.fc1(x))


class TowerLayer(GradientCheckpointingLayer):
    """One pre-norm layer."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = TowerAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = TowerMLP(config)

    def forward(
        self, plain: Tensor, guided: Tensor | None, rows: GuidedRows | None, mode: TextMode
    ) -> tuple[Tensor, Tensor | None]:
        """Both streams through the layer, see TowerAttention. One call: a sharded layer is gathered once for both."""
        normed = None if guided is None else self.layer_norm1(guided)
        seen, read = self.self_attn(self.layer_norm1(plain), normed, rows, mode)
        plain = plain + seen
        plain = plain + self.mlp(self.layer_norm2(plain))
        if guided is None:
            return plain, None
        guided = guided + read
        return plain, guided + self.mlp(self.layer_norm2(guided))


class _Levels:
    """Collects concat(last, mean of the first k hidden states, mean of the next k) while the layers run.

    Sums are kept in float32: in bfloat16 a running sum of 13 or 19 terms loses the digits of a mean.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.sums: list[Tensor | None] = [None, None]

    def add(self, index: int, hidden: Tensor) -> None:
        level, number = divmod(index, self.size)
        if level < 2:
            total = self.sums[level]
            if total is None:
                self.sums[level] = hidden
            else:
                # The first sum is a new tensor, so later terms can be added in place.
                self.sums[level] = total.float() + hidden if number == 1 else total.add_(hidden)

    def features(self, last: Tensor) -> Tensor:
        means = [(total / self.size).to(last.dtype) for total in self.sums if total is not None]
        return torch.cat([last, *means], dim=-1)


class SiglipLayers(nn.Module):
    """The part of a SigLIP tower that is used; parameter names are those of the published checkpoints."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        vision = config.vision_config
        width, patch = vision.hidden_size, vision.patch_size
        self.patch_size = patch
        self.grid = config.patch_grid
        self.early_layers = config.early_layers
        self.level_size = config.level_size
        self.early_mode: TextMode = "uniform" if config.text_mask == "checkpoint" else "blind"
        self.embeddings = nn.ModuleDict(
            {
                "patch_embedding": PatchEmbedding(vision.num_channels, width, kernel_size=patch, stride=patch),
                "position_embedding": PositionEmbedding(config.num_patches, width),
            }
        )
        layers = nn.ModuleList(TowerLayer(vision) for _ in range(config.used_tower_layers))
        self.encoder = nn.ModuleDict({"layers": layers})
        self.post_layernorm = nn.LayerNorm(width, eps=vision.layer_norm_eps)

    def cut(self, pixels: Tensor) -> Tensor:
        """[M, 3, S, S] -> [M, V, 3 * p * p], patches row by row; pixels beyond the last whole patch are dropped."""
        side, patch = self.grid, self.patch_size
        pixels = pixels[..., : side * patch, : side * patch]
        patches = pixels.unflatten(-2, (side, patch)).unflatten(-1, (side, patch))
        return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def embed(self, patches: Tensor) -> Tensor:
        """Hidden state 0: [M, V, 3 * p * p] (any float dtype) -> [M, V, d] (dtype of the weights)."""
        embedding = cast(PatchEmbedding, self.embeddings["patch_embedding"])
        hidden: Tensor = self.embeddings["position_embedding"](embedding(patches.to(embedding.weight.dtype)))
        return hidden

    def forward(self, plain: Tensor, guided: Tensor | None, rows: GuidedRows | None) -> tuple[Tensor, Tensor | None]:
        """Multi-level features of both streams.

        Args:
            plain: hidden state 0 of the rows without text, [M, V, d].
            guided: hidden state 0 of the rows with text, [R * V + n, d]; None when the tower sees no text.
            rows: of `guided`.

        Returns:
            features [M, V, 3d] and [R * V + n, 3d] (or None).
        """
        plain_levels, guided_levels = _Levels(self.level_size), _Levels(self.level_size)
        layers = cast(nn.ModuleList, self.encoder["layers"])
        for index, layer in enumerate(layers):
            mode: TextMode = self.early_mode if index < self.early_layers else "full"
            plain_levels.add(index, plain)
            if guided is not None:
                guided_levels.add(index, guided)
            plain, guided = layer(plain, guided, rows, mode)
        plain_levels.add(len(layers), plain)
        plain = plain_levels.features(plain)
        if guided is None:
            return plain, None
        guided_levels.add(len(layers), guided)
        return plain, guided_levels.features(guided)


class VisionTower(nn.Module):
    """Holder of the tower under the published prefix `vision_tower.vision_tower.vision_model`."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.vision_tower = nn.ModuleDict({"vision_model": SiglipLayers(config)})

    @property
    def layers(self) -> SiglipLayers:
        """The tower itself."""
        return cast(SiglipLayers, self.vision_tower["vision_model"])
