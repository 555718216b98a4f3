"""The model: tower, projectors, decoder with interaction layers, loss.

Source: paper sections on unified vision encoding, semantic mapping and recursive alignment decoding; design headings
"Text-guided unified vision encoding" to "Context-aware recursive alignment decoding".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from fusion.model.batch import IGNORED, FusionBatch
from fusion.model.configuration import FusionConfig
from fusion.model.generation import DecodeState, greedy_decode
from fusion.model.head import OutputHead
from fusion.model.images import normalize_pixels
from fusion.model.interaction import (
    InteractionBlock,
    InteractionLayer,
    pool_context,
    pool_latents,
    repeat_blank_tile,
    stitch_tiles,
)
from fusion.model.layout import SequenceLayout, build_layout
from fusion.model.mapping import (
    LossCounts,
    LossSums,
    Projector,
    SumCount,
    combine_losses,
    image_mapping_loss,
    no_loss,
    text_mapping_loss,
)
from fusion.model.vision import VisionTower

VISION_PREFIX = "model.vision_tower."


@dataclass
class FusionOutput(ModelOutput):
    """Result of a forward pass.

    Attributes:
        loss: float32, 0-dim: the loss of this batch alone.
        loss_sums: three (sum, count) pairs: cross-entropy, text mapping, image mapping.
        sample_loss_sums: float32 [B], cross-entropy summed over each sample's supervised tokens.
        sample_loss_counts: int64 [B], number of these tokens.
        logits: [B, L, vocabulary] when asked for; positions as in the batch's SequenceLayout.
    """

    loss: Tensor | None = None
    loss_sums: LossSums | None = None
    sample_loss_sums: Tensor | None = None
    sample_loss_counts: Tensor | None = None
    logits: Tensor | None = None


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
        config, tower = self.config, self.vision_tower.layers
        shape = layout.instruct_ids.shape
        ids = torch.cat([layout.text_ids, layout.instruct_ids.flatten()])
        text, instruct = self.embed_tokens(ids).split([len(layout.text_ids), layout.instruct_ids.numel()])
        instruct = instruct.view(*shape, -1)

        images, patches = pixels.shape[0], config.num_patches
        tiles, thumbnails, blank = self._embed_pictures(pixels, layout.num_blank > 0)
        rows = thumbnails if images else blank
        if layout.row_image is not None:
            rows = rows.index_select(0, layout.row_image)
        plain = [tiles.flatten(0, 1), blank]
        if config.text_guided:
            is_text = layout.instruct_ids != 0
            text_rows = tower.text_rows(is_text, instruct.dtype, layout.text_padded)
            guided = torch.cat([rows, self.aux_projector(instruct)], dim=1)
            plain_features, guided_features = tower(torch.cat(plain), guided, text_rows)
            guided_features = self.mm_projector(guided_features)
            image_features, instruct_features = guided_features.split([patches, shape[1]], dim=1)
            text_mapping = text_mapping_loss(instruct, instruct_features, is_text)
            plain_features = self.mm_projector(plain_features)
        else:
            plain_features, _ = tower(torch.cat([*plain, rows]), None, None)
            sizes = [len(plain_features) - len(rows), len(rows)]
            plain_features, image_features = self.mm_projector(plain_features).split(sizes)
            text_mapping = no_loss(plain_features)
        tile_features, blank_features = plain_features.split([4 * images, len(blank)])

        mapped, targets, weights = image_features, rows, layout.row_weights
        if layout.blank_apart:
            mapped, targets = torch.cat([mapped, blank_features]), torch.cat([targets, blank])
            weights = torch.cat([weights, weights.new_full((1,), layout.num_blank)])
        image_mapping = image_mapping_loss(targets, self.aux_projector(mapped), weights)

        tile_features = tile_features.unflatten(0, (images, 4)) if images else tile_features.unsqueeze(1)[:, :0]
        if layout.num_blank:
            blank_tiles = repeat_blank_tile(blank_features)
            tile_features = torch.cat([tile_features, blank_tiles]) if images else blank_tiles
        feature_map = stitch_tiles(tile_features)
        num_latents = layout.latent_positions.shape[1]
        latents = pool_latents(feature_map, num_latents)[:images]
        context = pool_context(feature_map, num_latents, config.window_size) if self.interaction_at else None

        width = text.shape[-1]
        # Without any picture the one thumbnail row is the blank picture's, which is shown to nobody.
        shown = image_features if images else image_features[:0]
        table = torch.cat([text.new_zeros(1, width), text, shown.reshape(-1, width), latents.reshape(-1, width)])
        size = layout.lengths.shape[0]
        embeddings = table.index_select(0, layout.gather).view(size, layout.length, width)
        return EncodedInputs(embeddings, context, text_mapping, image_mapping)

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

    def decode(self, inputs: EncodedInputs, layout: SequenceLayout, cache: DynamicCache | None = None) -> Tensor:
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

    def step(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """One new token a row, without interaction: ids [B, 1] at positions [B, 1] -> hidden states [B, 1, D].

        `mask` is bool [B, 1, 1, keys so far + 1].
        """
        hidden = self.embed_tokens(tokens)
        rope = self.rotary_emb(hidden, position_ids=positions)
        for index in range(len(self.layers)):
            hidden = self._layer(index, hidden, mask, positions, rope, cache)
        return hidden

    def _layer(
        self,
        index: int,
        hidden: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        rope: tuple[Tensor, Tensor],
        cache: DynamicCache | None,
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


class FusionForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A FUSION model. Parameter names and shapes are those of the published checkpoints."""

    config: FusionConfig
    config_class = FusionConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]  # noqa: RUF012  (names the base class reads, here and below)
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["TowerLayer", "LlamaDecoderLayer", "Phi3DecoderLayer", "InteractionLayer"]  # noqa: RUF012
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        self.model = FusionModel(config)
        self.lm_head = OutputHead(config.hidden_size, config.vocab_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Projector | InteractionLayer):
            # These modules start from the default of a linear layer, not from the decoder's narrow normal.
            for part in module.modules():
                if isinstance(part, nn.Linear):
                    init.kaiming_uniform_(part.weight, a=5**0.5)
                    if part.bias is not None:
                        bound = part.in_features**-0.5
                        init.uniform_(part.bias, -bound, bound)

    def draw(self, part: nn.Module) -> None:
        """Give the parameters of a module of this model new initial values."""
        part.apply(self._init_weights)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.model.embed_tokens = value

    def layout(self, batch: FusionBatch, num_latents: int | None = None) -> SequenceLayout:
        """Index tensors of a batch on the batch's device; `num_latents` None = the configured fixed number.

        Raises:
            ValueError: markers do not fit the questions, or ids are outside the vocabulary.
        """
        highest = int(batch.host["input_ids"].max())
        if highest >= self.config.vocab_size:
            raise ValueError(f"input_ids: {highest} is outside the vocabulary of {self.config.vocab_size}")
        layout = build_layout(batch, self.config.num_patches, num_latents or self.config.num_latents)
        return layout.to(batch["pixels"].device)

    def forward(
        self, batch: FusionBatch, *, num_latents: int | None = None, return_logits: bool = False, **_: Any
    ) -> FusionOutput:
        """Loss of a batch.

        Args:
            batch: on the model's device.
            num_latents: q, a square; None = the configured fixed number.
            return_logits: also return the logits of all positions.

        Raises:
            ValueError: see `layout`.
        """
        layout = self.layout(batch, num_latents)
        inputs = self.model.encode(batch["pixels"], layout)
        hidden = self.model.decode(inputs, layout)
        # Only what is supervised meets the output matrix.
        chosen = hidden.flatten(0, 1).index_select(0, layout.supervised_positions)
        losses = self.lm_head(self.model.norm(chosen), layout.supervised_targets)
        sample_sums = losses.new_zeros(batch.size).index_add(0, layout.supervised_samples, losses)
        count = layout.supervised_counts.sum()
        sums = LossSums(SumCount(sample_sums.sum(), count), inputs.text_mapping, inputs.image_mapping)
        return FusionOutput(
            loss=combine_losses(sums, None, self.config.mapping_loss_weight),
            loss_sums=sums,
            sample_loss_sums=sample_sums.detach(),
            sample_loss_counts=layout.supervised_counts,
            logits=self.lm_head(self.model.norm(hidden)) if return_logits else None,
        )

    def loss_counts(self, batch: FusionBatch) -> LossCounts:
        """The three counts of a batch without running it, to normalise over an optimiser step; host only."""
        host = batch.host
        inside = torch.arange(host["labels"].shape[1]) < host["lengths"].unsqueeze(1)
        supervised = int(((host["labels"] != IGNORED) & inside)[:, 1:].sum())
        with_image = host["image_index"] >= 0
        text = int((host["instruct_ids"][with_image] != 0).sum()) if self.config.text_guided else 0
        return LossCounts(supervised, text, batch.size * self.config.num_patches)

    def combine_losses(self, sums: LossSums, counts: LossCounts) -> Tensor:
        """A micro-batch's share of the loss of an optimiser step with these counts; see `mapping.combine_losses`."""
        return combine_losses(sums, counts, self.config.mapping_loss_weight)

    def parameter_groups(self) -> dict[str, list[str]]:
        """Names of the parameters that receive gradients: "vision" = the tower, "language" = everything else.

        The projectors and interaction layers count as language, as published. The tower's unused post-layernorm is in
        neither group.
        """
        groups: dict[str, list[str]] = {"language": [], "vision": []}
        for name, _ in self.named_parameters():
            if not name.startswith(VISION_PREFIX):
                groups["language"].append(name)
            elif "post_layernorm" not in name:
                groups["vision"].append(name)
        return groups

    def enable_activation_checkpointing(self) -> None:
        """Keep only the inputs of tower, decoder and interaction layers in training; recompute the rest."""
        self.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    @torch.inference_mode()
    def generate_answers(
        self,
        batch: FusionBatch,
        max_new_tokens: int,
        *,
        num_latents: int | None = None,
        stop_ids: tuple[int, ...] | None = None,
    ) -> list[list[int]]:
        """Greedy answers to a batch of prompts, with and without pictures mixed.

        Args:
            batch: of encoded prompts, each ending with the assistant's header.
            max_new_tokens: at most so many tokens an answer.
            num_latents: q; None = the configured fixed number.
            stop_ids: tokens that end an answer; None = the template's end-of-turn token.

        Returns:
            new token ids of each sample, without the stop token; equal to those of one sample at a time.

        Raises:
            ValueError: see `layout`; or no end-of-turn token is configured and none is given.
        """
        if stop_ids is None:
            if self.config.end_of_turn_token_id is None:
                raise ValueError("end_of_turn_token_id: is not configured; pass stop_ids")
            stop_ids = (self.config.end_of_turn_token_id,)
        layout = self.layout(batch, num_latents)
        cache = DynamicCache()
        hidden = self.model.decode(self.model.encode(batch["pixels"], layout), layout, cache)
        last = hidden.flatten(0, 1).index_select(0, layout.last_positions)
        state = DecodeState(cache, layout.lengths.to(hidden.device), layout.length)
        return greedy_decode(self._next_logits, self.lm_head(self.model.norm(last)), state, max_new_tokens, stop_ids)

    def _next_logits(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        logits: Tensor = self.lm_head(self.model.norm(self.model.step(tokens, positions, mask, cache)[:, 0]))
        return logits


AutoConfig.register(FusionConfig.model_type, FusionConfig, exist_ok=True)
