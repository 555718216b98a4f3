"""The same model computed the plain way: each saving of the product can be switched off by name.

With everything off it works the way the published implementation is described to work: all five views of a picture and
the instruction in one tensor, attention with stored scores over patches, text and text padding, latents' windows
projected once a question, padded rows in the decoder, logits of every position.

For measuring and for checking results only. Source: the design's description of the model, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fusion.model import backbone, recompute
from fusion.model.backbone import FusionModel, VisionFeatures
from fusion.model.batch import FusionBatch
from fusion.model.configuration import FusionConfig
from fusion.model.guided import GuidedRows
from fusion.model.images import normalize_pixels
from fusion.model.interaction import repeat_blank_tile
from fusion.model.layout import SequenceLayout, _question_grid
from fusion.model.mapping import LossSums, SumCount, combine_losses, image_mapping_loss, text_mapping_loss
from fusion.model.modeling import FusionForConditionalGeneration, FusionOutput
from fusion.model.recompute import Made, Recipe, RecomputingLinear, through
from fusion.model.vision import TowerAttention, TowerLayer, _Levels

ITEMS = {
    "attention": "attention without stored scores",
    "uniform": "text of the early half without scores: the mean of the values",
    "streams": "tiles, and thumbnails with packed text, as two tensors instead of one",
    "blank": "one blank picture a batch instead of five views a text-only sample",
    "card": "windows projected once a picture instead of once a question",
    "packing": "packed samples in the decoder instead of padded rows",
    "supervised": "logits of supervised positions only",
    "chunked": "logits in chunks, never stored",
    "pixels": "pixels as bytes until they are used",
    "recompute": "norms, GELUs and gated products made again in the backward pass instead of kept",
}


def eager_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention with stored scores and weights, in place of the fused function."""
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros(attn_mask.shape).masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    if attn_mask is not None:
        scores = scores + attn_mask
    return F.dropout(scores.softmax(-1, dtype=torch.float32).to(query.dtype), dropout_p) @ value


class PlainFusion(FusionForConditionalGeneration):
    """The model with the savings in `off` (names of ITEMS) switched off."""

    off: frozenset[str] = frozenset()

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        self.model.__class__ = PlainBackbone

    def switch_off(self, names: frozenset[str]) -> PlainFusion:
        """Itself, with these off and all others on."""
        assert names <= ITEMS.keys(), f"not among {sorted(ITEMS)}: {sorted(names - ITEMS.keys())}"
        self.off = self.model.off = names
        return self

    def prepare(self, batch: FusionBatch) -> FusionBatch:
        """The batch as a loader would hand it over: as pixels, or as floating point numbers."""
        if "pixels" in self.off:
            return FusionBatch({**batch, "pixels": normalize_pixels(batch["pixels"])}, batch.host)
        return batch

    def forward(self, batch: FusionBatch, *, num_latents: int | None = None, **_: Any) -> FusionOutput:  # type: ignore[override]
        """Loss of a prepared batch; inside `running`."""
        layout = self.layout(batch, num_latents, packed="packing" not in self.off)
        layout = self._with_pictures(batch, layout)
        inputs = self.model.encode(batch["pixels"], layout)
        hidden = self.model.decode(inputs, layout)
        losses = self._losses(hidden.flatten(0, 1), layout)
        sums = LossSums(
            SumCount(losses.sum(), layout.supervised_counts.sum()), inputs.text_mapping, inputs.image_mapping
        )
        return FusionOutput(loss=combine_losses(sums, None, self.config.mapping_loss_weight), loss_sums=sums)

    def _losses(self, hidden: Tensor, layout: SequenceLayout) -> Tensor:
        if "supervised" in self.off:
            targets = torch.full((len(hidden),), -100)
            targets[layout.supervised_positions] = layout.supervised_targets
            logits = self.lm_head(self.model.norm(hidden))
            return F.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=-100)
        chosen = self.model.norm(hidden.index_select(0, layout.supervised_positions))
        if "chunked" in self.off:
            return F.cross_entropy(self.lm_head(chosen).float(), layout.supervised_targets, reduction="sum")
        return self.lm_head(chosen, layout.supervised_targets)

    def _with_pictures(self, batch: FusionBatch, layout: SequenceLayout) -> SequenceLayout:
        """The layout with a picture for every text-only sample, and one for every question, where these are off."""
        pictures = batch.host["image_index"].numpy().copy()
        blank = pictures < 0
        images = len(batch["pixels"])
        pictures[blank] = images + (np.arange(blank.sum()) if "blank" in self.off else 0)
        of_question = pictures.repeat((batch.host["question_ends"].numpy() >= 0).sum(1))
        self.model.picture_of_question = torch.from_numpy(of_question)
        if "card" in self.off:
            return replace(layout, question_grid=None)
        return replace(layout, question_grid=_question_grid(of_question, int(pictures.max()) + 1))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Forward and backward passes belong inside: recomputation has to meet the same code as the forward pass."""
        with ExitStack() as stack:
            if "pixels" in self.off:
                stack.enter_context(patch.object(backbone, "normalize_pixels", lambda pixels: pixels))
            if "attention" in self.off:
                stack.enter_context(patch.object(F, "scaled_dot_product_attention", eager_attention))
            if "uniform" in self.off:
                scored = _attend_with_scores(TowerAttention.forward)
                stack.enter_context(patch.object(TowerAttention, "forward", scored))
            if "recompute" in self.off:
                stack.enter_context(patch.object(recompute.RecomputingLinear, "forward", _linear))
                stack.enter_context(patch.object(recompute, "swiglu", _swiglu))
            yield


class PlainBackbone(FusionModel):
    """Tower and context in the ways that can be chosen."""

    off: frozenset[str]
    picture_of_question: Tensor

    def encode(self, pixels: Tensor, layout: SequenceLayout) -> Any:
        """As in the product, with a context for each question where windows are not shared."""
        inputs = super().encode(pixels, layout)
        if "card" not in self.off or inputs.context is None:
            return inputs
        return replace(inputs, context=inputs.context.index_select(0, self.picture_of_question))

    def see(self, pixels: Tensor, instruct: Tensor, layout: SequenceLayout) -> VisionFeatures:
        """As in the product, with the streams that are wanted."""
        assert layout.row_image is None, "every sample has its own picture here"
        if "blank" in self.off and layout.num_blank:
            return self._see_all(pixels, instruct, layout, layout.num_blank)
        if "streams" in self.off:
            return self._see_all(pixels, instruct, layout, 0)
        return super().see(pixels, instruct, layout)

    def _see_all(self, pixels: Tensor, instruct: Tensor, layout: SequenceLayout, blanks: int) -> VisionFeatures:
        """Five views for every picture and for `blanks` blank ones; one more row for a blank picture that is shared."""
        tower, images = self.vision_tower.layers, len(pixels)
        values = backbone.normalize_pixels(tower.cut(pixels.flatten(0, 1)))
        shared = int(layout.num_blank > 0 and not blanks)
        values = torch.cat([values, values.new_zeros(5 * blanks + shared, *values.shape[1:])])
        hidden = tower.embed(values)
        views = hidden[: 5 * (images + blanks)].unflatten(0, (images + blanks, 5))
        blank = hidden[5 * (images + blanks) :]
        tiles, thumbnails = views[:, :4], views[:, 4]
        text = list(self.aux_projector(instruct).split(layout.guided.text.lengths))
        lengths = [len(row) for row in text] + [0] * blanks
        if "streams" in self.off:
            seen, read, alone = self._one_stream(views, text, blank, lengths)
            tile_features, image_features = seen[:, :4], seen[:, 4]
        else:
            rows = GuidedRows.of(self.config.num_patches, lengths)
            guided = torch.cat([thumbnails.flatten(0, 1), *text])
            plain, levels = tower(tiles.flatten(0, 1), guided, rows)
            tile_features = self.mm_projector(plain).unflatten(0, (-1, 4))
            image_features, read = rows.split(self.mm_projector(levels))
            image_features, alone = image_features.unflatten(0, (len(lengths), -1)), tile_features[:0, 0]
        text_mapping = text_mapping_loss(instruct, read)
        targets, mapped = torch.cat([thumbnails, blank]), torch.cat([image_features, alone])
        weights = torch.ones(len(targets), dtype=torch.int64)
        if shared:
            weights[-1] = layout.num_blank
            tile_features = torch.cat([tile_features, repeat_blank_tile(alone)])
        image_mapping = image_mapping_loss(targets, self.aux_projector(mapped), weights)
        return VisionFeatures(tile_features, image_features[:images], text_mapping, image_mapping)

    def _one_stream(
        self, views: Tensor, text: list[Tensor], blank: Tensor, lengths: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All views with their text padded to the longest, in one tensor; features of views, text and blank rows."""
        tower, patches, longest = self.vision_tower.layers, views.shape[2], max(lengths, default=0)
        pictures = len(views)
        is_text = torch.zeros(5 * pictures + len(blank), longest, dtype=torch.bool)
        x = views.new_zeros(len(is_text), patches + longest, views.shape[-1])
        x[:, :patches] = torch.cat([views.flatten(0, 1), blank])
        for number, row in enumerate(text):
            is_text[5 * number + 4, : len(row)] = True
            x[5 * number + 4, patches : patches + len(row)] = row
        keys = F.pad(is_text, (patches, 0), value=True)[:, None, None]
        # Scores of zero are a uniform row. (Under a mask that drowns all scores, fused gradients come out wrong.)
        early = torch.ones(x.shape[1], 1)
        early[patches:] = 0
        if self.config.text_mask != "checkpoint":
            raise ValueError("text_mask: the plain path has the checkpoints' kind only")
        levels = _Levels(tower.level_size)
        layers: Any = tower.encoder["layers"]
        for index, layer in enumerate(layers):
            levels.add(index, x)
            arguments = (layer, x, keys, early if index < tower.early_layers else None)
            saving = layer.gradient_checkpointing and layer.training
            x = checkpoint(_plain_layer, *arguments, use_reentrant=False) if saving else _plain_layer(*arguments)
        levels.add(len(layers), x)
        features = self.mm_projector(levels.features(x))
        seen = features[: 5 * pictures, :patches].unflatten(0, (pictures, 5))
        read = features[: 5 * pictures, patches:].unflatten(0, (pictures, 5))[:, 4]
        read = torch.cat([row[:length] for row, length in zip(read, lengths, strict=True)])
        return seen, read, features[5 * pictures :, :patches]


def _plain_layer(layer: TowerLayer, x: Tensor, keys: Tensor, factor: Tensor | None) -> Tensor:
    attention, normed = layer.self_attn, layer.layer_norm1(x)
    query, key, value = (through(part, normed) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    parts = (query if factor is None else query * factor, key, value)
    mixed = F.scaled_dot_product_attention(*(attention._heads(part) for part in parts), attn_mask=keys)
    x = x + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.layer_norm2(x))


def _linear(self: RecomputingLinear, x: Tensor, recipe: Recipe | None = None) -> Tensor:
    """A linear layer that keeps its input."""
    return F.linear(x, self.weight, self.bias)


def _swiglu(gate: Tensor, up: Tensor) -> Made:
    """The gated product, with whatever its backward pass asks for kept."""
    return Made(F.silu(gate) * up, Recipe(torch.mul, ()))


def _attend_with_scores(product: Any) -> Any:
    """The product's attention, with scores for the text of the early half."""

    def forward(self: TowerAttention, plain: Made, guided: Made | None, rows: GuidedRows | None, mode: str) -> Any:
        if mode != "uniform" or guided is None or rows is None:
            return product(self, plain, guided, rows, mode)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        seen = self._attend(*(through(part, plain) for part in projections))
        query, key, value = (rows.split(through(part, guided)) for part in projections)
        key, value = rows.in_rows(*key), rows.in_rows(*value)
        look = self._attend(query[0], key, value, rows.patches, rows.keys)
        read = self._attend(query[1] * 0, key, value, rows.text, rows.keys)
        return self.out_proj(seen), self.out_proj(torch.cat([look, read]))

    return forward
