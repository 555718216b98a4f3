"""Everything of the model but the output matrix: tower, projectors, decoder with interaction layers.

Source: paper sections on unified vision encoding and recursive alignment decoding; design headings "Text-guided unified
vision encoding" and "Context-aware recursive alignment decoding".
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
from fusion.model.packing import PACKED, Spans
from fusion.model.recompute import gated_mlp
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
        # The layers get a configuration of their own, which leads them to attention that knows packed samples.
        decoder = AutoModel.from_config(copy.deepcopy(config.text_config), attn_implementation=PACKED)
        for part in ("embed_tokens", "layers", "norm", "rotary_emb"):
            if not hasattr(decoder, part):
                raise ValueError(f"text_config: {type(decoder).__name__} is not of Llama or Phi3 type (no {part})")
        self.embed_tokens: nn.Module = decoder.embed_tokens
        self.layers: nn.ModuleList = decoder.layers
        for layer in self.layers:
            layer.mlp = gated_mlp(layer.mlp, config.text_config.hidden_act)
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
        ids = torch.cat([layout.text_ids, layout.instruct_ids])
        text, instruct = self.embed_tokens(ids).split([len(layout.text_ids), len(layout.instruct_ids)])
        vision = self.see(pixels, instruct, layout)

        num_images, num_latents, width = len(pixels), layout.latent_positions.shape[1], text.shape[-1]
        feature_map = stitch_tiles(vision.tiles)
        latents = pool_latents(feature_map, num_latents)[:num_images]
        context = pool_context(feature_map, num_latents, self.config.window_size) if self.interaction_at else None
        table = [text.new_zeros(1, width), text, vision.images.flatten(0, 1), latents.flatten(0, 1)]
        embeddings = torch.cat(table).index_select(0, layout.gather).view(-1, layout.length, width)
        return EncodedInputs(embeddings, context, vision.text_mapping, vision.image_mapping)

    def see(self, pixels: Tensor, instruct: Tensor, layout: SequenceLayout) -> VisionFeatures:
        """Features of all pictures and the mapping losses.

        The tower always runs both of its streams, an empty one too: ranks of a sharded model must call the same layers.

        Args:
            pixels: uint8 [N, 5, 3, S, S].
            instruct: embedded instructions of the thumbnail rows, [n, D].
            layout: of the batch.
        """
        tower, num_images, guided_rows = self.vision_tower.layers, len(pixels), layout.guided
        plain, rows = self._embed_pictures(pixels, layout.num_blank > 0)
        if layout.row_image is not None:
            rows = rows.index_select(0, layout.row_image)
        blank = plain[4 * num_images :]
        if self.config.text_guided:
            guided = torch.cat([rows.flatten(0, 1), self.aux_projector(instruct)])
            plain_levels, guided_levels = tower(plain, guided, guided_rows)
            features = self.mm_projector(plain_levels)
            images, read = guided_rows.split(self.mm_projector(guided_levels))
            images = images.unflatten(0, (rows.shape[0], rows.shape[1]))
            real = guided_rows.num_text
            text_mapping = text_mapping_loss(instruct[:real], read[:real])
        else:
            plain_levels, _ = tower(torch.cat([plain, rows]), None, None)
            features, images = self.mm_projector(plain_levels).split([len(plain), len(rows)])
            text_mapping = no_loss(features)
        tile_features, blank_features = features.split([4 * num_images, len(blank)])
        tile_features = tile_features.unflatten(0, (num_images, 4))
        if layout.num_blank:
            tile_features = torch.cat([tile_features, repeat_blank_tile(blank_features)])

        mapped, targets, weights = images, rows, torch.ones(len(rows), dtype=torch.int64, device=rows.device)
        if layout.num_blank:
            mapped, targets = torch.cat([mapped, blank_features]), torch.cat([targets, blank])
            weights = F.pad(weights, (0, 1), value=layout.num_blank)
        image_mapping = image_mapping_loss(targets, self.aux_projector(mapped), weights)
        return VisionFeatures(tile_features, images, text_mapping, image_mapping)

    def _embed_pictures(self, pixels: Tensor, with_blank: bool) -> tuple[Tensor, Tensor]:
        """Hidden state 0 of the rows without text (4 N tiles, then the blank picture) and of thumbnails [N, V, d]."""
        tower, images = self.vision_tower.layers, len(pixels)
        pieces = [normalize_pixels(tower.cut(pixels[:, :4].flatten(0, 1))), normalize_pixels(tower.cut(pixels[:, 4]))]
        if with_blank:
            pieces.insert(1, pieces[0].new_zeros(1, *pieces[0].shape[1:]))
        # In the order in which they are used, so that taking them apart copies nothing.
        plain, thumbnails = tower.embed(torch.cat(pieces)).split([4 * images + with_blank, images])
        return plain, thumbnails

    def decode(self, inputs: EncodedInputs, layout: SequenceLayout, cache: Cache | None = None) -> Tensor:
        """Hidden states of the whole sequence before the final norm: [B, L, D].

        A row is one sample, right-padded, or all samples packed (see SequenceLayout). Attention is causal and stays
        inside its sample, so no position sees padding and no mask is needed.
        """
        hidden = inputs.embeddings
        rope = self.rotary_emb(hidden, position_ids=layout.positions)
        for index in range(len(self.layers)):
            hidden = self._layer(index, hidden, None, layout.positions, rope, cache, layout.spans)
            number = self.interaction_at.get(index)
            if number is not None:
                hidden = self.vision_sampler_layers[number](
                    hidden.flatten(0, 1),
                    inputs.context,
                    layout.question_positions,
                    layout.latent_positions,
                    layout.question_grid,
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
        spans: Spans | None = None,
    ) -> Tensor:
        output: Tensor = self.layers[index](
            hidden,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            position_embeddings=rope,
            spans=spans,
            window=getattr(self.config.text_config, "sliding_window", None),
            implementation=self.config.text_config._attn_implementation,
        )
        return output
