"""The SigLIP tower with text rows: one implementation for every SigLIP-type tower.

Two streams go through the same layers side by side: plain rows (patches alone: the tiles) and guided ones (the patches
of all thumbnails, then the projected instruction tokens of all of them, packed without padding). They are separate
tensors, never slices of one.

Source: paper section on text-guided unified vision encoding; design heading "Text-guided unified vision encoding".
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from fusion.model.configuration import FusionConfig
from fusion.model.guided import GuidedRows
from fusion.model.packing import Pattern, Spans, attend
from fusion.model.recompute import Made, MadeLayerNorm, RecomputingLinear, first_rows, gelu, through

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
        self.k_proj = RecomputingLinear(width, width)
        self.v_proj = RecomputingLinear(width, width)
        self.q_proj = RecomputingLinear(width, width)
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
        self, plain: Made, guided: Made | None, rows: GuidedRows | None, mode: TextMode
    ) -> tuple[Tensor, Tensor | None]:
        """Both streams, each module called for one right after the other.

        Args:
            plain: normalised rows [M, V, d].
            guided: normalised rows [R * V + n, d], or None.
            rows: of `guided`.
            mode: what text does in this layer.
        """
        key, value = through(self.k_proj, plain), through(self.v_proj, plain)
        seen = self._attend(through(self.q_proj, plain), key, value)
        if guided is None or rows is None:
            return self.out_proj(seen), None
        key_patches, key_text = rows.split(through(self.k_proj, guided))
        value_patches, value_text = rows.split(through(self.v_proj, guided))
        key, value = rows.in_rows(key_patches, key_text), rows.in_rows(value_patches, value_text)
        if mode == "uniform":
            # All text of a row gets the same vector: the mean of the values needs no scores and one projection.
            patches = first_rows(guided, rows.num_patches)
            look = self._attend(through(self.q_proj, patches), key, value, rows.patches, rows.keys)
            read = rows.mean(value_patches, value_text)
            look, read = self.out_proj(torch.cat([look, read])).split([len(look), len(read)])
            return self.out_proj(seen), torch.cat([look, read.index_select(0, rows.row)])
        query_patches, query_text = rows.split(through(self.q_proj, guided))
        if mode == "blind":
            look = self._attend(query_patches, key_patches, value_patches, rows.patches, rows.patches)
        else:
            look = self._attend(query_patches, key, value, rows.patches, rows.keys)
        query_text, padding = query_text.split([rows.num_text, rows.padding])
        read = self._attend(query_text, key, value, rows.text, rows.keys)
        # Text padding is no key here: what becomes of it matters to nobody.
        return self.out_proj(seen), self.out_proj(torch.cat([look, read, padding]))


# Activations of SigLIP towers, as torch's GELU calls them.
_GELU = {"gelu_pytorch_tanh": "tanh", "gelu": "none"}


class TowerMLP(nn.Module):
    """Feed-forward part of a tower layer."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        if config.hidden_act not in _GELU:
            raise ValueError(f"vision_config.hidden_act: {config.hidden_act!r} is not one of {sorted(_GELU)}")
        self.approximate = _GELU[config.hidden_act]
        self.fc1 = RecomputingLinear(config.hidden_size, config.intermediate_size)
        self.fc2 = RecomputingLinear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Made) -> Tensor:
        """Normalised rows [..., d] -> [..., d]."""
        return through(self.fc2, gelu(through(self.fc1, x), self.approximate))


class TowerLayer(GradientCheckpointingLayer):
    """One pre-norm layer."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = MadeLayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = TowerAttention(config)
        self.layer_norm2 = MadeLayerNorm(config.hidden_size, eps=config.layer_norm_eps)
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
