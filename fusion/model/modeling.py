"""The model: backbone, output matrix, loss.

Source: paper section on dual-supervised semantic mapping loss; design heading of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, GenerationMixin
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput, can_return_tuple

from fusion.model.backbone import FusionModel
from fusion.model.batch import FusionBatch
from fusion.model.configuration import FusionConfig
from fusion.model.decoding import DecoderStep
from fusion.model.generation import FusionGeneration
from fusion.model.head import OutputHead
from fusion.model.layout import SequenceLayout, build_layout
from fusion.model.loading import VISION_PREFIX, CheckedLoading
from fusion.model.mapping import LossCounts, LossSums, NewLinear, SumCount, combine_losses
from fusion.model.prompt import prompt_batch


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


class FusionForConditionalGeneration(FusionGeneration, CheckedLoading, GenerationMixin):
    """A FUSION model. Parameter names and shapes are those of the published checkpoints."""

    config: FusionConfig
    config_class = FusionConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]  # noqa: RUF012  (names the base class reads, here and below)
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is that of the batch alone: a trainer that accumulates averages it itself
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
        if isinstance(module, NewLinear):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                bound = module.in_features**-0.5
                init.uniform_(module.bias, -bound, bound)

    def draw(self, part: nn.Module) -> None:
        """Give the parameters of a module of this model new initial values."""
        part.apply(self._init_weights)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.model.embed_tokens = value

    @torch.compiler.disable
    def layout(self, batch: FusionBatch, num_latents: int | None = None, *, packed: bool = False) -> SequenceLayout:
        """Index tensors of a batch on the batch's device; `num_latents` None = the configured fixed number.

        `packed`: the samples one behind the other, instead of right-padded rows.

        Raises:
            ValueError: markers do not fit the questions, or ids are outside the vocabulary.
        """
        highest = int(batch.host["input_ids"].max())
        if highest >= self.config.vocab_size:
            raise ValueError(f"input_ids: {highest} is outside the vocabulary of {self.config.vocab_size}")
        layout = build_layout(
            batch,
            self.config.num_patches,
            num_latents or self.config.num_latents,
            packed=packed,
            count_text_padding=self.config.count_text_padding,
        )
        return layout.to(batch["pixels"].device)

    @can_return_tuple
    def forward(
        self,
        batch: FusionBatch | None = None,
        *,
        num_latents: int | None = None,
        return_logits: bool | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        lengths: Tensor | None = None,
        question_ends: Tensor | None = None,
        instruct_ids: Tensor | None = None,
        image_index: Tensor | None = None,
        pixels: Tensor | None = None,
        step: DecoderStep | None = None,
        **options: Any,
    ) -> FusionOutput | CausalLMOutputWithPast:
        """Loss of a batch, which is given as a FusionBatch or as its tensors by keyword.

        Args:
            batch: on the model's device.
            num_latents: q, a square; None = the configured fixed number.
            return_logits: also return the logits of all positions; None = only when there are no labels.
            input_ids, labels, lengths, question_ends, instruct_ids, image_index, pixels: see FusionBatch.
            attention_mask: int64 or bool [B, n], 1 for real tokens, padded on either side; see `prompt_batch`.
            step: of a generation, instead of a batch; see `FusionGeneration.run_step`.
            options: what tools pass along: `return_dict`, and values that ask for nothing (None, False).

        Raises:
            TypeError: an option asks for something that there is not.
            ValueError: tensors are missing; see `layout`.
        """
        if step is not None:
            return self.run_step(step)
        options.pop("use_cache", None)  # generation brings its own cache; there is none to be had from a forward pass
        unknown = sorted(name for name, value in options.items() if value is not None and value is not False)
        if unknown:
            raise TypeError(f"{', '.join(unknown)}: a FUSION model's forward takes no such arguments")
        if batch is None:
            if input_ids is None:
                raise ValueError("batch, input_ids: one of them is needed")
            batch = prompt_batch(
                self.config,
                input_ids,
                attention_mask=attention_mask,
                labels=labels,
                lengths=lengths,
                question_ends=question_ends,
                instruct_ids=instruct_ids,
                image_index=image_index,
                pixels=pixels,
            )
            return_logits = labels is None if return_logits is None else return_logits
        layout = self.layout(batch, num_latents, packed=True)
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
            logits=self._logits(hidden[0], layout) if return_logits else None,
        )

    def _logits(self, hidden: Tensor, layout: SequenceLayout) -> Tensor:
        """Logits [B, L, vocabulary] of packed hidden states [N, D], zeros at padding."""
        rows = hidden.split(layout.lengths.tolist())
        logits: Tensor = self.lm_head(self.model.norm(pad_sequence(rows, batch_first=True)))
        return logits

    def loss_counts(self, batch: FusionBatch) -> LossCounts:
        """The three counts of a batch without running it, to normalise over an optimiser step; host only."""
        host = batch.host
        with_image = host["image_index"] >= 0
        text = int((host["instruct_ids"][with_image] != 0).sum()) if self.config.text_guided else 0
        return LossCounts(int(batch.supervised.sum()), text, batch.size * self.config.num_patches)

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


AutoConfig.register(FusionConfig.model_type, FusionConfig, exist_ok=True)
