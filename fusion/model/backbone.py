"""Everything of the model but the output matrix: tower, projectors, decoder with interaction layers.

Source: paper sections on unified vision encoding and recursive alignment decoding; design headings "Text-guided unified
vision encoding" and "Context-aware recursive alignment decoding".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.cache_utils import Cache

from fusion.model.configuration import FusionConfig
from fusion.model.images import normalize_pixels
from fusion.model.interaction import (
    InteractionBlock,
    pool_context,
    pool_latents,
    repeat_blank_tile,
    stitch_tiles,
)
from fusion.model.layout import SequenceLayout
from fusion.model.mapping import Projector, SumCount, image_mapping_loss, no_loss, text_mapping_loss
from fusion.model.vision import VisionTower


@dataclass(frozen=True)
class VisionFeatures:
    """What the tower and the projectors give for a batch.

    Attributes:
        tiles: [I, 4, V, D], the blank picture last when there is a text-only sample.
        images: [R, V, D], thumbnails.
        text_mapping, image_mapping: the two mapping losses.
    """

    tiles: Tensor
    images: Tensor
    text_mapping: SumCount
    image_mapping: SumCount


@dataclass(frozen=True)
class EncodedInputs:
    """What the decoder starts from.

    Attributes:
        embeddings: [B, L, D].
        context: windows of every picture, [I, q, w * w, D]; None without interaction layers.
        text_mapping, image_mapping: the two mapping losses.
    """

    embeddings: Tensor
    context: Tensor | None
    text_mapping: SumCount
    image_mapping: SumCount


class FusionModel(nn.Module):
    """Everything but the output matrix."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        decoder = AutoModel.from_config(config.text_config)
        for part in ("embed_tokens", "layers", "norm", "rotary_emb"):
            if not hasattr(decoder, part):
                raise ValueError(f"text_config: {type(decoder).__name__} is not of Llama or Phi3 type (no {part})")
        self.embed_tokens: nn.Module = decoder.embed_tokens
        self.layers: nn.ModuleList = decoder.layers
        self.norm: nn.Module = decoder.norm
        self.rotary_emb: nn.Module = decoder.rotary_emb
        width, tower_width = config.hidden_size, config.vision_config.hidden_size
        self.vision_tower = VisionTower(config)
        self.mm_projector = Projector(3 * tower_width, width)
        self.aux_projector = Projector(width, tower_width)
        self.interaction_at = {layer: number for number, layer in enumerate(config.interaction_layers)}
        if self.interaction_at:
            blocks = (InteractionBlock(width, config.interaction_heads) for _ in self.interaction_at)
            self.vision_sampler_layers = nn.ModuleList(blocks)
        self.freeze_unused()

    def freeze_unused(self) -> None:
        """The tower's post-layernorm is carried for the layout of the checkpoints alone; no output depends on it."""
        self.vision_tower.layers.post_layernorm.requires_grad_(False)

    def encode(self, pixels: Tensor, layout: SequenceLayout) -> EncodedInputs:
        """Run the tower and build the decoder's input.

        Args:
            pixels: uint8 [N, 5, 3, S, S].
            layout: of the batch, on the device of `pixels`.
        """
        ids = torch.cat([layout.text_ids, layout.instruct_ids.flatten()])
        text, instruct = self.embed_tokens(ids).split([len(layout.text_ids), layout.instruct_ids.numel()])
        vision = self.see(pixels, instruct.view(*layout.instruct_ids.shape, -1), layout)

        num_images, num_latents, width = len(pixels), layout.latent_positions.shape[1], text.shape[-1]
        feature_map = stitch_tiles(vision.tiles)
        latents = pool_latents(feature_map, num_latents)[:num_images]
        context = pool_context(feature_map, num_latents, self.config.window_size) if self.interaction_at else None
        # Without any picture the one thumbnail row is the blank picture's, which is shown to nobody.
        shown = vision.images if num_images else vision.images[:0]
        table = torch.cat([text.new_zeros(1, width), text, shown.reshape(-1, width), latents.reshape(-1, width)])
        embeddings = table.index_select(0, layout.gather).view(-1, layout.length, width)
        return EncodedInputs(embeddings, context, vision.text_mapping, vision.image_mapping)

    def see(self, pixels: Tensor, instruct: Tensor, layout: SequenceLayout) -> VisionFeatures:
        """Features of all pictures and the mapping losses.

        Args:
            pixels: uint8 [N, 5, 3, S, S].
            instruct: embedded instructions of the thumbnail rows, [R, T, D].
            layout: of the batch.
        """
        tower, num_images = self.vision_tower.layers, len(pixels)
        tiles, thumbnails, blank = self._embed_pictures(pixels, layout.num_blank > 0)
        rows = thumbnails if num_images else blank
        if layout.row_image is not None:
            rows = rows.index_select(0, layout.row_image)
        plain = torch.cat([tiles.flatten(0, 1), blank])
        if self.config.text_guided:
            is_text = layout.instruct_ids != 0
            text_rows = tower.text_rows(is_text, instruct.dtype, layout.text_padded)
            guided = torch.cat([rows, self.aux_projector(instruct)], dim=1)
            plain_levels, guided_levels = tower(plain, guided, text_rows)
            features = self.mm_projector(plain_levels)
            sizes = [rows.shape[1], instruct.shape[1]]
            images, read = self.mm_projector(guided_levels).split(sizes, dim=1)
            text_mapping = text_mapping_loss(instruct, read, is_text)
        else:
            plain_levels, _ = tower(torch.cat([plain, rows]), None, None)
            features, images = self.mm_projector(plain_levels).split([len(plain), len(rows)])
            text_mapping = no_loss(features)
        tile_features, blank_features = features.split([4 * num_images, len(blank)])
        tile_features = tile_features.view(num_images, 4, *tile_features.shape[1:])
        if layout.num_blank:
            tile_features = torch.cat([tile_features, repeat_blank_tile(blank_features)])

        mapped, targets, weights = images, rows, layout.row_weights
        if layout.blank_apart:
            mapped, targets = torch.cat([mapped, blank_features]), torch.cat([targets, blank])
            weights = torch.cat([weights, weights.new_full((1,), layout.num_blank)])
        image_mapping = image_mapping_loss(targets, self.aux_projector(mapped), weights)
        return VisionFeatures(tile_features, images, text_mapping, image_mapping)

    def _embed_pictures(self, pixels: Tensor, with_blank: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden state 0 of tiles [N, 4, V, d], thumbnails [N, V, d] and the blank picture [0 or 1, V, d]."""
        tower = self.vision_tower.layers
        images = pixels.shape[0]
        cut = tower.cut(pixels.flatten(0, 1))
        values = torch.zeros(len(cut) + with_blank, *cut.shape[1:], device=cut.device)
        values[: len(cut)] = normalize_pixels(cut)
        pictures, blank = tower.embed(values).split([len(cut), int(with_blank)])
        pictures = pictures.view(images, 5, *pictures.shape[1:])
        tiles, thumbnails = pictures.split([4, 1], dim=1)
        return tiles, thumbnails.squeeze(1), blank

    def decode(self, inputs: EncodedInputs, layout: SequenceLayout, cache: Cache | None = None) -> Tensor:
        """Hidden states of the whole sequence before the final norm: [B, L, D].

        Rows are right-padded and attention is causal, so no position sees padding and no mask is needed.
        """
        hidden = inputs.embeddings
        positions = torch.arange(layout.length, device=hidden.device).unsqueeze(0)
        mask = self._window_mask(positions)
        rope = self.rotary_emb(hidden, position_ids=positions)
        for index in range(len(self.layers)):
            hidden = self._layer(index, hidden, mask, positions, rope, cache)
            number = self.interaction_at.get(index)
            if number is not None:
                hidden = self.vision_sampler_layers[number](
                    hidden.flatten(0, 1),
                    inputs.context,
                    layout.question_positions,
                    layout.latent_positions,
                    layout.image_of_question,
                ).view_as(hidden)
        return hidden

    def _layer(
        self,
        index: int,
        hidden: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        rope: tuple[Tensor, Tensor],
        cache: Cache | None,
    ) -> Tensor:
        output: Tensor = self.layers[index](
            hidden,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            position_embeddings=rope,
        )
        return output

    def _window_mask(self, positions: Tensor) -> Tensor | None:
        """bool [1, 1, L, L] where the decoder has a sliding window shorter than the sequence."""
        window = getattr(self.config.text_config, "sliding_window", None)
        if window is None or positions.shape[1] <= window:
            return None
        distance = positions[0, :, None] - positions
        return ((distance >= 0) & (distance < window))[None, None]
