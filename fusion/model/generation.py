"""Generation in the shape of the Transformers library: its loops and options over this model's prompts.

Markers of a prompt become image and latent tokens, so the decoder holds more positions than input_ids has ids. What the
decoder knows (cache, positions, gaps) therefore travels beside the ids in one object of the call; nothing stays on the
model.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.generation import GenerationMode
from transformers.modeling_outputs import CausalLMOutputWithPast

from fusion.model.backbone import FusionModel
from fusion.model.batch import FusionBatch
from fusion.model.configuration import FusionConfig, is_square
from fusion.model.decoding import DecoderState, DecoderStep, Prompt, Segment, check_positions
from fusion.model.layout import SequenceLayout, build_layout
from fusion.model.prompt import prompt_batch
from fusion.model.sight import PictureCache, Sight, look


class FusionGeneration(GenerationMixin):
    """The generating side of the model. See `generate`."""

    config: FusionConfig
    model: FusionModel
    lm_head: torch.nn.Module
    generation_config: GenerationConfig
    _supported_generation_modes = [  # noqa: RUF012  (a name that the base class reads)
        GenerationMode.GREEDY_SEARCH,
        GenerationMode.SAMPLE,
        GenerationMode.BEAM_SEARCH,
        GenerationMode.BEAM_SAMPLE,
    ]

    def generate(  # type: ignore[override]  # one named argument for each tensor of a batch
        self,
        input_ids: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        attention_mask: Tensor | None = None,
        lengths: Tensor | None = None,
        question_ends: Tensor | None = None,
        instruct_ids: Tensor | None = None,
        image_index: Tensor | None = None,
        pixels: Tensor | None = None,
        labels: Tensor | None = None,
        num_latents: int | None = None,
        image_token_grid: int | None = None,
        pictures: PictureCache | None = None,
        **options: Any,
    ) -> Any:
        """Continue prompts: greedily, by sampling or by beam search, with the options of Transformers' `generate`.

        `model.generate(**batch, max_new_tokens=64)` takes the batch of `FusionProcessor.collate`. Prompts with and
        without pictures may be mixed and padded on either side; a row's result does not depend on its neighbours.
        The number of latents is fixed: nothing is drawn unless `do_sample` asks for it. Logits processors and
        streamers see `<vision_start>` in place of the markers.

        Args:
            input_ids, attention_mask, lengths, question_ends, instruct_ids, image_index, pixels: see
                `prompt.prompt_batch`.
            generation_config: as in Transformers; single options may be given as keywords instead, among them
                max_new_tokens, do_sample, temperature, top_p, num_beams, num_return_sequences, streamer,
                logits_processor, stopping_criteria, return_dict_in_generate with output_scores or output_logits.
                Generation ends with the template's end of turn and the tokens of the model's own generation_config,
                unless eos_token_id is given; an empty list there means that nothing but the length ends it.
            labels: ignored, so that a batch can be passed whole.
            num_latents: q, a square; None = the configured number.
            image_token_grid: side of the square of image tokens that the thumbnail's features are resized to
                (FUSION-L: 16 or 12); None = the configured number, or one token a patch.
            pictures: keeps tile features of pictures that come again.

        Returns:
            int64 [B * copies, n + new]: input_ids as they were given, then the new ids, padded once a row has ended;
            or Transformers' output object with these as `sequences`.

        Raises:
            ValueError: the tensors do not fit together; positions run out; an option cannot work here.
        """
        if input_ids is None:
            raise ValueError("input_ids: is needed")
        batch = prompt_batch(
            self.config,
            input_ids.to(self._place),
            attention_mask=attention_mask,
            lengths=lengths,
            question_ends=question_ends,
            instruct_ids=instruct_ids,
            image_index=image_index,
            pixels=pixels,
        )
        prompt = self.prompt(batch, num_latents, image_token_grid, pictures)
        return self.continue_from(prompt, input_ids, generation_config, **options)

    @torch.inference_mode()
    def generate_answers(
        self,
        batch: FusionBatch,
        max_new_tokens: int,
        *,
        num_latents: int | None = None,
        stop_ids: tuple[int, ...] | None = None,
        **options: Any,
    ) -> list[list[int]]:
        """Answers to a batch of prompts, greedy unless options say otherwise; see `generate`.

        Args:
            batch: of encoded prompts, each ending with the assistant's header.
            max_new_tokens: at most so many tokens an answer.
            num_latents: q; None = the configured fixed number.
            stop_ids: tokens that end an answer; None = the template's end-of-turn token.
            options: of `generate`.

        Returns:
            new token ids of each sample, without the stop token; equal to those of one sample at a time.

        Raises:
            ValueError: see `generate`; or no end-of-turn token is configured and none is given.
        """
        if stop_ids is None:
            if self.config.end_of_turn_token_id is None:
                raise ValueError("end_of_turn_token_id: is not configured; pass stop_ids")
            stop_ids = (self.config.end_of_turn_token_id,)
        prompt = self.prompt(batch, num_latents, options.pop("image_token_grid", None), options.pop("pictures", None))
        ids = batch["input_ids"]
        options = {"do_sample": False, "num_beams": 1} | options
        found = self.continue_from(prompt, ids, max_new_tokens=max_new_tokens, eos_token_id=list(stop_ids), **options)
        answers = []
        for row in found[:, ids.shape[1] :].tolist():
            end = next((index for index, token in enumerate(row) if token in stop_ids), len(row))
            answers.append(row[:end])
        return answers

    def prompt(
        self,
        batch: FusionBatch,
        num_latents: int | None = None,
        image_token_grid: int | None = None,
        pictures: PictureCache | None = None,
    ) -> Prompt:
        """A prompt for `continue_from`; arguments and errors as for `generate`."""
        latents = num_latents or self.config.num_latents
        if not is_square(latents):
            raise ValueError(f"num_latents: {latents} is not a square")
        grid = image_token_grid or self.config.image_token_grid
        if grid is not None and grid < 1:
            raise ValueError(f"image_token_grid: {grid} is below 1")
        highest = int(batch.host["input_ids"].max())
        if highest >= self.config.vocab_size:
            raise ValueError(f"input_ids: {highest} is outside the vocabulary of {self.config.vocab_size}")
        layout = build_layout(
            batch,
            self.config.num_patches,
            latents,
            image_tokens=grid**2 if grid else None,
            count_text_padding=self.config.count_text_padding,
        ).to(self._place)
        pixels = batch["pixels"].to(self._place)

        def segment() -> Segment:
            return prompt_segment(self.model, layout, look(self.model, pixels, layout, latents, grid, pictures))

        return Prompt(layout.lengths.tolist(), segment)

    def continue_from(
        self, prompt: Prompt, ids: Tensor, generation_config: GenerationConfig | None = None, **options: Any
    ) -> Any:
        """Run Transformers' loops from a prompt.

        Args:
            prompt: what the decoder reads.
            ids: int64 [B, n], what loops, logits processors and streamers see of it; markers are hidden from them.
            generation_config, options: see `generate`.

        Returns, raises: see `generate`.
        """
        for name in ("past_key_values", "cache_implementation", "inputs_embeds", "position_ids"):
            if options.get(name) is not None:
                raise ValueError(f"{name}: cannot be used here; a ChatSession goes on from what was decoded before")
        ids = ids.to(self._place)
        given = generation_config if generation_config is not None else GenerationConfig()
        stops = options.pop("eos_token_id", given.eos_token_id)
        padding = options.pop("pad_token_id", given.pad_token_id)
        given = copy.deepcopy(given)
        given.eos_token_id = self.stop_ids(stops)
        given.pad_token_id = (self.config.pad_token_id or 0) if padding is None else padding
        given.update(**{name: options.pop(name) for name in list(options) if hasattr(given, name)})
        hidden = self.config.vision_start_token_id
        shown = torch.where(ids < 0, given.pad_token_id if hidden is None else hidden, ids)
        with torch.inference_mode():
            found = GenerationMixin.generate(
                cast(Any, self),
                shown,
                generation_config=given,
                attention_mask=torch.ones_like(shown),
                prompt=prompt,
                width=ids.shape[1],
                **options,
            )
        # A copy made outside of inference mode is a tensor like any other to the caller.
        sequences = (found if isinstance(found, Tensor) else found.sequences).clone()
        sequences[:, : ids.shape[1]] = ids.repeat_interleave(len(sequences) // len(ids), dim=0)
        if isinstance(found, Tensor):
            return sequences
        found.sequences = cast(Any, sequences)
        return found

    def run_step(self, step: DecoderStep) -> CausalLMOutputWithPast:
        """The forward pass of a generation: logits [rows, 1, vocabulary] of the next token."""
        state = step.state
        if step.prompt is None:
            last = state.step(step.tokens)
        else:
            last = state.extend(step.prompt.segment())
            if step.copies > 1:
                last = last.repeat_interleave(step.copies, dim=0)
                state.repeat(step.copies)
        logits = self.lm_head(self.model.norm(last)).unsqueeze(1)
        return CausalLMOutputWithPast(logits=logits, past_key_values=state.cache)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        prompt: Prompt | None = None,
        state: DecoderState | None = None,
        copies: int = 1,
        width: int = 0,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, DecoderStep]:
        """Arguments of the next forward pass; called by Transformers' loops."""
        del past_key_values, attention_mask, width, kwargs
        assert state is not None
        return {"step": DecoderStep(state, prompt if is_first_iteration else None, copies, input_ids[:, -1:])}

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """The state follows by itself; masks and positions of the ids mean nothing here."""
        return model_kwargs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Repeats the ids alone: the prompt is read once, then the decoder's state is repeated."""
        if expand_size > 1:
            input_ids = input_ids.repeat_interleave(expand_size, dim=0)
        return input_ids, model_kwargs | {"copies": expand_size}

    def _prepare_special_tokens(self, generation_config: GenerationConfig, *args: Any, **kwargs: Any) -> None:
        """An empty list of stop tokens means that there is none; the base class expects None for that."""
        cast(Any, super())._prepare_special_tokens(generation_config, *args, **kwargs)
        if generation_config.eos_token_id == []:
            generation_config._eos_token_tensor = None

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Checks lengths and options, all of which are settled by now, and makes the decoder's state."""
        if not generation_config.use_cache or generation_config.prefill_chunk_size is not None:
            raise ValueError("use_cache, prefill_chunk_size: leave them out; a prompt is read at once, into a cache")
        for name in ("output_attentions", "output_hidden_states"):
            if getattr(generation_config, name):
                raise ValueError(f"{name}: is not recorded in generation")
        prompt: Prompt = model_kwargs["prompt"]
        room = generation_config.max_length - model_kwargs["width"]
        done = prompt.state.filled if prompt.state is not None else 0
        starts = [done + length for length in prompt.lengths]
        check_positions(self.config.text_config, starts, [start + room - 1 for start in starts], done)
        state = prompt.state if prompt.state is not None else DecoderState(self.model, room)
        model_kwargs["state"] = state
        model_kwargs["past_key_values"] = state.cache

    def stop_ids(self, given: int | list[int] | None = None) -> list[int]:
        """Tokens that end an answer: the given ones, else those of generation_config and the end of a turn."""
        if given is not None:
            return [given] if isinstance(given, int) else list(given)
        own = self.generation_config.eos_token_id
        stops = own if isinstance(own, list) else [own]
        return sorted({token for token in [*stops, self.config.end_of_turn_token_id] if token is not None})

    @property
    def _place(self) -> torch.device:
        return next(self.model.parameters()).device


def prompt_segment(backbone: FusionModel, layout: SequenceLayout, sight: Sight) -> Segment:
    """What the decoder reads of a batch of prompts."""
    text = backbone.embed_tokens(layout.text_ids)
    shown = sight.tiles[: len(sight.tiles) - (layout.num_blank > 0)]
    rows = [text.new_zeros(1, text.shape[-1]), text, sight.images.flatten(0, 1), *(tile.latents for tile in shown)]
    embeddings = torch.cat(rows).index_select(0, layout.gather).view(-1, layout.length, text.shape[-1])
    windows = [tile.context for tile in sight.tiles if tile.context is not None]
    return Segment(
        embeddings=embeddings,
        lengths=layout.lengths.tolist(),
        context=torch.stack(windows) if windows else None,
        question_positions=layout.question_positions,
        latent_positions=layout.latent_positions,
        question_grid=layout.question_grid,
    )
