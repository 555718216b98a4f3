"""Models on disk: our own format, and an initial model put together from base models.

Only safetensors are written and read; no code from a checkpoint is run.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

# From there, so that whoever imports this first has the Auto classes told as well.
from fusion.model.auto import FusionConfig, FusionForConditionalGeneration, FusionProcessor
from fusion.model.loading import TOWER_PREFIX
from fusion.model.processing import load_tokenizer
from fusion.model.template import TEMPLATES, VISION_END, VISION_START

LANGUAGE_TYPES = ("llama", "phi3")
NEW_PARTS = ("mm_projector", "aux_projector", "vision_sampler_layers")


def save_checkpoint(model: FusionForConditionalGeneration, processor: FusionProcessor, folder: str | Path) -> None:
    """Write config.json, safetensors and the tokenizer's files to a folder, which is made."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    processor.tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def load_checkpoint(
    folder: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
    allow_pickle: bool = False,
) -> tuple[FusionForConditionalGeneration, FusionProcessor]:
    """Read a folder or Hub repository, written by `save_checkpoint` or in the released layout, in evaluation mode.

    Args:
        folder: with configuration, weights and tokenizer.
        dtype: of all weights; "auto" = as they are stored.
        device: of all weights.
        allow_pickle: see `CheckedLoading.from_pretrained`.

    Raises:
        ValueError: weights, configuration and tokenizer do not fit together; what does not is named.
        OSError: there is no configuration, tokenizer or safetensors file.
    """
    model: FusionForConditionalGeneration = FusionForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, allow_pickle=allow_pickle
    )
    place: Any = device
    return model.to(place).eval(), FusionProcessor.from_pretrained(folder)


def add_vision_tokens(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Add `<vision_start>` and `<vision_end>` where they are missing; their ids."""
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [VISION_START, VISION_END]}, replace_extra_special_tokens=False
    )
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary[VISION_START], vocabulary[VISION_END]


def add_template_tokens(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    """Add the control tokens of a template that the tokenizer does not know as one token each."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    missing = [token for token in TEMPLATES[template].control_tokens if token not in vocabulary]
    if missing:
        tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)


def build_from_base(
    language: str | Path | PreTrainedConfig,
    vision: str | Path | PreTrainedConfig,
    tokenizer: str | Path | PreTrainedTokenizerFast | None = None,
    *,
    template: str,
    seed: int,
    dtype: torch.dtype = torch.float32,
    revisions: tuple[str | None, str | None] = (None, None),
    **options: Any,
) -> tuple[FusionForConditionalGeneration, FusionProcessor]:
    """An initial model: language model + vision tower + new projectors and interaction layers + two new tokens.

    The embedding and output matrices get exactly one row for each token; the rows of new tokens are the mean of the
    rows before them. New are the two vision tokens, and the template's control tokens if the language model was
    trained with others.

    Args:
        language: Hub id or folder of a Llama- or Phi3-type checkpoint, or a configuration for random weights.
        vision: Hub id or folder of a SigLIP checkpoint (also SigLIP 2 with a fixed resolution), tower alone or with its
            text model, or a configuration for random weights.
        tokenizer: Hub id, folder or tokenizer; None = the one beside the language model. A given tokenizer is changed.
        template: "phi_3" or "llama_3".
        seed: of everything that is drawn; the same on all machines with the same torch version.
        dtype: of all weights.
        revisions: commit, tag or branch of the language model's and of the tower's repository; the tokenizer beside the
            language model is of the same one.
        options: further fields of FusionConfig.

    Returns:
        the model (in evaluation mode, on the CPU) and its processor.

    Raises:
        ValueError: base models and options do not fit together, or a base model lacks tensors; the message names the
            field.
        OSError: a base model cannot be found or has no safetensors; the message begins with the field as well.
    """
    if template not in TEMPLATES:
        raise ValueError(f"template: {template!r} is not one of {sorted(TEMPLATES)}")
    if tokenizer is None:
        if isinstance(language, PreTrainedConfig):
            raise ValueError("tokenizer: is needed when the language model is given as a configuration")
        with _field("language: its tokenizer"):
            words = load_tokenizer(language, revision=revisions[0])
    elif isinstance(tokenizer, str | Path):
        with _field("tokenizer"):
            words = load_tokenizer(tokenizer)
    else:
        words = tokenizer
    old_tokens = len(words)
    add_template_tokens(words, template)
    vision_start, vision_end = add_vision_tokens(words)
    vocabulary: dict[str, int] = words.get_vocab()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = _language_model(language, old_tokens, dtype, revisions[0])
        tower = _vision_model(vision, dtype, revisions[1])
        _resize_vocabulary(decoder, old_tokens, len(words))
        config = FusionConfig(
            text_config=decoder.config.to_dict(),
            vision_config=tower.config.to_dict(),
            template=template,
            pad_token_id=vocabulary.get(TEMPLATES[template].pad_token, cast("int | None", words.pad_token_id)),
            end_of_turn_token_id=vocabulary.get(TEMPLATES[template].turn_end),
            vision_start_token_id=vision_start,
            vision_end_token_id=vision_end,
            **options,
        )
        model = _assemble(config, decoder, tower, dtype)
    return model.eval(), FusionProcessor(words, config)


@contextlib.contextmanager
def _field(name: str) -> Iterator[None]:
    """Puts the field in front of an error of a library that says only which file or repository it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{name}: {error}") from error
    except ValueError as error:
        raise error if str(error).startswith(f"{name}: ") else ValueError(f"{name}: {error}") from error


def _language_model(
    source: str | Path | PreTrainedConfig, tokens: int, dtype: torch.dtype, revision: str | None
) -> PreTrainedModel:
    if isinstance(source, PreTrainedConfig):
        fields = source.to_dict() | {"vocab_size": tokens}
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        return cast(PreTrainedModel, AutoModelForCausalLM.from_config(config, dtype=dtype))
    with _field("language"):
        config = AutoConfig.from_pretrained(source, revision=revision)
    if config.model_type not in LANGUAGE_TYPES:
        raise ValueError(f"language: {config.model_type} is not one of {', '.join(LANGUAGE_TYPES)}")
    return _complete("language", source, AutoModelForCausalLM, dtype, revision)


def _vision_model(source: str | Path | PreTrainedConfig, dtype: torch.dtype, revision: str | None) -> SiglipVisionModel:
    with _field("vision"):
        given = (
            source if isinstance(source, PreTrainedConfig) else AutoConfig.from_pretrained(source, revision=revision)
        )
    config = getattr(given, "vision_config", given)
    if not isinstance(config, SiglipVisionConfig):
        # SigLIP 2 with a free resolution embeds its patches in another way.
        raise ValueError(f"vision: {config.model_type} is not a SigLIP vision model of fixed resolution")
    if isinstance(source, PreTrainedConfig):
        made: Any = SiglipVisionModel._from_config(SiglipVisionConfig(**_fields(config)), dtype=dtype)
        return cast(SiglipVisionModel, made)
    return cast(SiglipVisionModel, _complete("vision", source, SiglipVisionModel, dtype, revision))


def _fields(config: PreTrainedConfig) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key != "model_type"}


def _complete(field: str, source: str | Path, kind: Any, dtype: torch.dtype, revision: str | None) -> PreTrainedModel:
    """A base model none of whose weights are left at random values."""
    with _field(field):
        model, report = kind.from_pretrained(
            source,
            dtype=dtype,
            revision=revision,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    lacking = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    if lacking:
        names = sorted(lacking)
        raise ValueError(f"{field}: {source} lacks {len(names)} tensors of {kind.__name__}, first {names[:3]}")
    return cast(PreTrainedModel, model)


@torch.no_grad()
def _resize_vocabulary(decoder: PreTrainedModel, old: int, size: int) -> None:
    """One row a token; rows after the first `old` become the mean of those. Rows kept in reserve are dropped."""

    def resized(weight: Tensor) -> nn.Parameter:
        if weight.shape[0] < old:
            raise ValueError(f"language: has {weight.shape[0]} embedding rows for a tokenizer of {old} tokens")
        mean = weight[:old].float().mean(0, keepdim=True).to(weight.dtype)
        return nn.Parameter(torch.cat([weight[:old], mean.expand(size - old, -1)]))

    embedding = cast(nn.Embedding, decoder.get_input_embeddings())
    head = cast(nn.Linear, decoder.get_output_embeddings())
    tied = head.weight is embedding.weight
    embedding.weight = resized(embedding.weight)
    head.weight = embedding.weight if tied else resized(head.weight)
    embedding.num_embeddings = head.out_features = size
    decoder.config.vocab_size = size


def _assemble(
    config: FusionConfig, decoder: PreTrainedModel, tower: SiglipVisionModel, dtype: torch.dtype
) -> FusionForConditionalGeneration:
    with torch.device("meta"):
        model = FusionForConditionalGeneration(config)
    weights: dict[str, Tensor] = dict(decoder.state_dict())
    for name, tensor in tower.state_dict().items():
        plain = name.removeprefix("vision_model.")
        if not plain.startswith(("head.", f"encoder.layers.{config.used_tower_layers}.")):
            weights[TOWER_PREFIX + plain] = tensor
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if unexpected:
        raise ValueError(f"language, vision: the base models hold parameters that have no place here: {unexpected}")
    fresh = (*(f"model.{part}." for part in NEW_PARTS), *(["lm_head."] if config.tie_word_embeddings else []))
    foreign = [name for name in missing if not name.startswith(fresh)]
    if foreign:
        raise ValueError(f"language, vision: the base models lack {foreign}")
    # Buffers of the rotary embedding are in no checkpoint: take the module, made for real, with its values.
    model.model.rotary_emb = cast(Any, decoder).model.rotary_emb
    for name in NEW_PARTS:
        part = getattr(model.model, name, None)
        if part is not None:
            part.to_empty(device="cpu")
            model.draw(part)
    if config.tie_word_embeddings:
        model.lm_head.weight = cast(nn.Embedding, model.model.embed_tokens).weight
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.model.freeze_unused()
    return model


def verify_checkpoint(folder: str | Path) -> dict[str, int]:
    """Check a checkpoint folder without reading its weights: the model is built on the meta device.

    Configuration and tokenizer must be readable, every tensor of the model must be in the safetensors files with its
    shape, and none may be left over. Files of an index must be there and hold what it says.

    Returns:
        `tensors` and `parameters`, as stored.

    Raises:
        ValueError: tensors are missing, left over or of another shape, or a file is broken; all are named.
        OSError: there is no configuration, no tokenizer or no safetensors file.
    """
    folder = Path(folder)
    config = FusionConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = FusionForConditionalGeneration(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = _stored_shapes(folder)
    if config.tie_word_embeddings and "lm_head.weight" not in found:
        del expected["lm_head.weight"]
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "left over": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{name} {list(found[name])} instead of {list(shape)}"
            for name, shape in sorted(expected.items())
            if name in found and found[name] != shape
        ],
    }
    if any(problems.values()):
        told = [f"{len(names)} {what} ({', '.join(names[:5])})" for what, names in problems.items() if names]
        raise ValueError(f"{folder}: the weights do not fit the configuration: {'; '.join(told)}")
    FusionProcessor.from_pretrained(folder)
    return {"tensors": len(found), "parameters": sum(math.prod(shape) for shape in found.values())}


def _stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors in model.safetensors or in the files of its index; only headers are read."""
    index = folder / "model.safetensors.index.json"
    placed: dict[str, str] | None = None
    if index.is_file():
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    names = sorted(set(placed.values())) if placed is not None else ["model.safetensors"]
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise OSError(f"{folder} lacks {name}")
        try:
            with safe_open(folder / name, framework="pt") as file:
                here = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{folder / name} is no whole safetensors file: {error}") from error
        foreign = sorted(key for key in here if placed is not None and placed.get(key) != name)
        if foreign:
            raise ValueError(f"{folder / name} holds {', '.join(foreign[:5])}, which the index does not place there")
        shapes |= here
    return shapes
