"""The SigLIP tower with text rows: one implementation for every SigLIP-type tower.

Two streams go through the same layers: plain rows (patches alone: the tiles) and guided rows (patches of a thumbnail,
then projected instruction tokens). They are separate tensors, never slices of one.

Source: paper section on text-guided unified vision encoding; design heading "Text-guided unified vision encoding".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from fusion.model.configuration import FusionConfig

# How the text rows of a guided stream take part in one layer.
#   full: everyone sees every real key.  uniform: text rows average all keys.  blind: patches do not see text.
TextMode = Literal["full", "uniform", "blind"]


@dataclass(frozen=True)
class TextRows:
    """What the layers must know about the text of a guided stream.

    Attributes:
        length: text rows T of every guided row, padding included.
        keys: bool [R, 1, 1, V + T], False at text padding; None when nothing is padded.
        mean: [R, 1, V + T] weights of the uniform rows, summing to one.
    """

    length: int
    keys: Tensor | None
    mean: Tensor


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

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, keys: Tensor | None) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        dropout = self.dropout if self.training else 0.0
        query, key, value = heads(query), heads(key), heads(value)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=keys, dropout_p=dropout)
        return mixed.transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, text: TextRows | None, mode: TextMode) -> Tensor:
        """[M, K, d] -> [M, K, d]; K = V, or V + T when there are text rows."""
        if text is None:
            return self.out_proj(self._attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), None))
        key, value = self.k_proj(x), self.v_proj(x)
        if mode == "full":
            return self.out_proj(self._attend(self.q_proj(x), key, value, text.keys))
        sizes = [x.shape[1] - text.length, text.length]
        if mode == "uniform":
            # All text rows of a row get the same vector: the mean of the values needs no scores and one projection.
            patches, _ = x.split(sizes, dim=1)
            seen = self._attend(self.q_proj(patches), key, value, text.keys)
            mean = torch.bmm(text.mean, value)
            seen, mean = self.out_proj(torch.cat([seen, mean], dim=1)).split([sizes[0], 1], dim=1)
            return torch.cat([seen, mean.expand(-1, text.length, -1)], dim=1)
        query_patches, query_text = self.q_proj(x).split(sizes, dim=1)
        key_patches, _ = key.split(sizes, dim=1)
        value_patches, _ = value.split(sizes, dim=1)
        seen = self._attend(query_patches, key_patches, value_patches, None)
        read = self._attend(query_text, key, value, text.keys)
        return self.out_proj(torch.cat([seen, read], dim=1))


class TowerMLP(nn.Module):
    """Feed-forward part of a tower layer."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        return self.fc2(self.activation(self.fc1(x)))


class TowerLayer(GradientCheckpointingLayer):
    """One pre-norm layer."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = TowerAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = TowerMLP(config)

    def forward(self, x: Tensor, text: TextRows | None, mode: TextMode) -> Tensor:
        """[M, K, d] -> [M, K, d]."""
        x = x + self.self_attn(self.layer_norm1(x), text, mode)
        return x + self.mlp(self.layer_norm2(x))


class _Levels:
    """Collects concat(last, mean of the first k hidden states, mean of the next k) while the layers run.

    Sums are kept in float32: in bfloat16 a running sum of 13 or 19 terms loses the digits of a mean.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.sums: list[Tensor | None] = [None, None]

    def add(self, index: int, hidden: Tensor) -> None:
        level = index // self.size
        if level < 2:
            total = self.sums[level]
            self.sums[level] = hidden.float() if total is None else total + hidden

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
        self.count_text_padding = config.count_text_padding
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

    def text_rows(self, is_text: Tensor, dtype: torch.dtype, padded: bool) -> TextRows:
        """Masks and weights from a bool [R, T] that is False at text padding; `padded` = whether there is any."""
        keys = F.pad(is_text, (self.grid**2, 0), value=True)
        counted = torch.ones_like(keys) if self.count_text_padding else keys
        mean = counted.float()
        mean = (mean / mean.sum(1, keepdim=True)).to(dtype)
        return TextRows(is_text.shape[1], keys[:, None, None, :] if padded else None, mean.unsqueeze(1))

    def forward(self, plain: Tensor, guided: Tensor | None, text: TextRows | None) -> tuple[Tensor, Tensor | None]:
        """Multi-level features of both streams.

        Args:
            plain: hidden state 0 of the rows without text, [M, V, d].
            guided: hidden state 0 of the rows with text, [R, V + T, d]; None when the tower sees no text.
            text: the text rows of `guided`.

        Returns:
            features [M, V, 3d] and [R, V + T, 3d] (or None).
        """
        plain_levels, guided_levels = _Levels(self.level_size), _Levels(self.level_size)
        layers = cast(nn.ModuleList, self.encoder["layers"])
        for index, layer in enumerate(layers):
            mode: TextMode = self.early_mode if index < self.early_layers else "full"
            plain_levels.add(index, plain)
            plain = layer(plain, None, "full")
            if guided is not None:
                guided_levels.add(index, guided)
                guided = layer(guided, text, mode)
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
