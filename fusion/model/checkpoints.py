"""Models on disk: our own format, and an initial model put together from base models.

Only safetensors are written and read; no code from a checkpoint is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from fusion.model.configuration import FusionConfig
from fusion.model.modeling import VISION_PREFIX, FusionForConditionalGeneration
from fusion.model.processing import FusionProcessor
from fusion.model.template import TEMPLATES, VISION_END, VISION_START

TOWER_PREFIX = VISION_PREFIX + "vision_tower.vision_model."
_PAD_TOKENS = {"phi_3": "<unk>", "llama_3": "<|reserved_special_token_0|>"}


def save_checkpoint(model: FusionForConditionalGeneration, processor: FusionProcessor, folder: str | Path) -> None:
    """Write config.json, safetensors and the tokenizer's files to a folder, which is made."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    processor.tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def load_checkpoint(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[FusionForConditionalGeneration, FusionProcessor]:
    """Read a folder (or Hub repository) written by `save_checkpoint`, in evaluation mode.

    Raises:
        ValueError: parameters are missing, left over or of another shape; all are named.
        OSError: there is no configuration or no safetensors file.
    """
    model, report = FusionForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    problems = {key: sorted(map(str, report[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    problems = {key: names for key, names in problems.items() if names}
    if problems:
        raise ValueError(f"{folder}: the weights do not fit the configuration: {problems}")
    return model.to(device).eval(), FusionProcessor.from_pretrained(folder)


def add_vision_tokens(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Add `<vision_start>` and `<vision_end>` where they are missing; their ids."""
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [VISION_START, VISION_END]}, replace_extra_special_tokens=False
    )
    start, end = tokenizer.convert_tokens_to_ids([VISION_START, VISION_END])
    return start, end


def build_from_base(
    language: str | Path | PreTrainedConfig,
    vision: str | Path | PreTrainedConfig,
    tokenizer: str | Path | PreTrainedTokenizerFast | None = None,
    *,
    template: str,
    seed: int,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[FusionForConditionalGeneration, FusionProcessor]:
    """An initial model: language model + vision tower + new projectors and interaction layers + two new tokens.

    The embedding and output matrices get exactly one row for each token; the rows of the two new tokens are the mean of
    the rows before them.

    Args:
        language: Hub id or folder of a Llama- or Phi3-type checkpoint, or a configuration for random weights.
        vision: Hub id or folder of a SigLIP checkpoint, or a configuration for random weights.
        tokenizer: Hub id, folder or tokenizer; None = the one beside the language model. A given tokenizer is changed.
        template: "phi_3" or "llama_3".
        seed: of everything that is drawn; the same on all machines with the same torch version.
        dtype: of all weights.
        options: further fields of FusionConfig.

    Returns:
        the model (in evaluation mode, on the CPU) and its processor.

    Raises:
        ValueError: base models and options do not fit together; the message names the field.
    """
    if template not in TEMPLATES:
        raise ValueError(f"template: {template!r} is not one of {sorted(TEMPLATES)}")
    if tokenizer is None:
        if isinstance(language, PreTrainedConfig):
            raise ValueError("tokenizer: is needed when the language model is given as a configuration")
        tokenizer = language
    if isinstance(tokenizer, str | Path):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    vision_start, vision_end = add_vision_tokens(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = _language_model(language, len(tokenizer), dtype)
        tower = _vision_model(vision, dtype)
        _resize_vocabulary(decoder, len(tokenizer))
        config = FusionConfig(
            text_config=decoder.config.to_dict(),
            vision_config=tower.config.to_dict(),
            template=template,
            pad_token_id=_token_id(tokenizer, _PAD_TOKENS[template], tokenizer.pad_token_id),
            end_of_turn_token_id=_token_id(tokenizer, TEMPLATES[template].turn_end, None),
            vision_start_token_id=vision_start,
            vision_end_token_id=vision_end,
            **options,
        )
        model = _assemble(config, decoder, tower, dtype)
    return model.eval(), FusionProcessor(tokenizer, config)


def _token_id(tokenizer: PreTrainedTokenizerFast, token: str, default: int | None) -> int | None:
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary.get(token, default)


def _language_model(source: str | Path | PreTrainedConfig, vocab_size: int, dtype: torch.dtype) -> PreTrainedModel:
    if isinstance(source, PreTrainedConfig):
        fields = source.to_dict()
        # Two rows short: the resize below adds the new tokens' rows as it does for a real base model.
        fields["vocab_size"] = vocab_size - 2
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        return AutoModelForCausalLM.from_config(config, dtype=dtype)
    return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True)


def _vision_model(source: str | Path | PreTrainedConfig, dtype: torch.dtype) -> SiglipVisionModel:
    if isinstance(source, PreTrainedConfig):
        config = getattr(source, "vision_config", source)
        return SiglipVisionModel._from_config(SiglipVisionConfig(**config.to_dict()), dtype=dtype)
    return SiglipVisionModel.from_pretrained(source, dtype=dtype, use_safetensors=True)


@torch.no_grad()
def _resize_vocabulary(decoder: PreTrainedModel, size: int) -> None:
    """One row a token; the last two rows become the mean of those before them. Rows kept in reserve are dropped."""
    embedding, head = decoder.get_input_embeddings(), decoder.get_output_embeddings()
    tied = head.weight is embedding.weight
    embedding.weight = nn.Parameter(_resized(embedding.weight, size))
    embedding.num_embeddings = size
    head.weight = embedding.weight if tied else nn.Parameter(_resized(head.weight, size))
    head.out_features = size
    decoder.config.vocab_size = size


def _resized(weight: Tensor, size: int) -> Tensor:
    old = size - 2
    if weight.shape[0] < old:
        raise ValueError(f"language: has {weight.shape[0]} embedding rows for a tokenizer of {old} tokens")
    mean = weight[:old].float().mean(0, keepdim=True).to(weight.dtype)
    return torch.cat([weight[:old], mean, mean])


def _assemble(
    config: FusionConfig, decoder: PreTrainedModel, tower: SiglipVisionModel, dtype: torch.dtype
) -> FusionForConditionalGeneration:
    with torch.device("meta"):
        model = FusionForConditionalGeneration(config)
    used = config.used_tower_layers
    weights: dict[str, Tensor] = dict(decoder.state_dict())
    for name, tensor in tower.state_dict().items():
        plain = name.removeprefix("vision_model.")
        unused = plain.startswith("head.") or plain.startswith(f"encoder.layers.{used}.")
        if not unused:
            weights[TOWER_PREFIX + plain] = tensor
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if unexpected:
        raise ValueError(f"language, vision: the base models hold parameters that have no place here: {unexpected}")
    fresh = ("model.mm_projector.", "model.aux_projector.", "model.vision_sampler_layers.", "lm_head.")
    foreign = [name for name in missing if not name.startswith(fresh)]
    if foreign:
        raise ValueError(f"language, vision: the base models lack {foreign}")
    # Buffers of the rotary embedding are in no checkpoint: take the module, made for real, with its values.
    model.model.rotary_emb = decoder.model.rotary_emb
    for part in (model.model.mm_projector, model.model.aux_projector, getattr(model.model, "vision_sampler_layers", None)):
        if part is not None:
            part.to_empty(device="cpu").to(dtype)
            for module in part.modules():
                module._is_hf_initialized = False
            part.apply(model._init_weights)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.model.vision_tower.layers.post_layernorm.requires_grad_(False)
    leftover = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if leftover:
        raise ValueError(f"language, vision: no weights for {leftover}")
    return model.to(dtype)
