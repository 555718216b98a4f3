"""Small models and a word-level tokenizer for tests."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers import decoders as token_decoders
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, Phi3Config, PreTrainedConfig, PreTrainedTokenizerFast, SiglipVisionConfig

from fusion.model.batch import EncodedSample
from fusion.model.checkpoints import build_from_base
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.model.processing import FusionProcessor
from fusion.model.template import TEMPLATES, Message

CONTROL = {
    "phi_3": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    "llama_3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|reserved_special_token_0|>"],
}
WORDS = "what colour is the bus red blue how many dogs two yes no left of tree a bench it one name prime"


def tiny_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """Words, punctuation and runs of newlines as tokens; characters of unknown words fall to <unk>."""
    text = TEMPLATES[template].system + "system user assistant " + WORDS
    for token in CONTROL[template]:
        text = text.replace(token, " ")
    pieces = pre_tokenizers.Split(Regex(r"\n+|\w+|[^\w\s]"), "removed", invert=True)
    words = sorted({word for word, _ in pieces.pre_tokenize_str(text + "\n \n\n ")})
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = token_decoders.WordPiece(prefix="##")
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.add_special_tokens({"additional_special_tokens": CONTROL[template]})
    return fast


def text_config(template: str, **changes: Any) -> PreTrainedConfig:
    """Two-layer (unless changed) decoder of the template's family, 64 wide."""
    fields: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
    }  # fmt: skip
    return (Phi3Config if template == "phi_3" else LlamaConfig)(**(fields | changes))


def vision_config(**changes: Any) -> SiglipVisionConfig:
    """Tower of 5 layers, 48 wide, on 16 x 16 pictures with 4 patches a side."""
    fields: dict[str, Any] = {
        "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 5, "num_attention_heads": 4,
        "image_size": 16, "patch_size": 4,
    }  # fmt: skip
    return SiglipVisionConfig(**(fields | changes))


def build(template: str = "phi_3", **options: Any) -> tuple[FusionForConditionalGeneration, FusionProcessor]:
    """A tiny model from random weights."""
    settings: dict[str, Any] = {
        "num_of_vision_sampler_layers": 2, "stride_of_vision_sampler_layers": 1, "query_len": [1, 4, 9],
        "num_latents": 4, "interaction_heads": 4, "seed": 0,
    } | options  # fmt: skip
    return build_from_base(
        text_config(template), vision_config(), tiny_tokenizer(template), template=template, **settings
    )


@functools.cache
def shared(template: str = "phi_3") -> tuple[FusionForConditionalGeneration, FusionProcessor]:
    """The same tiny model for all tests that do not change it."""
    return build(template)


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Random RGB pixels."""
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def png(image: Image.Image, **options: Any) -> bytes:
    """Encoded as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def talk(*texts: str) -> list[Message]:
    """Messages, alternating human and gpt."""
    return [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(texts)]


def likeliest_tokens(
    model: FusionForConditionalGeneration, processor: FusionProcessor, prompt: EncodedSample, answer: list[int]
) -> list[int]:
    """What one forward pass over prompt and answer holds most likely at each token of the answer."""
    ids = torch.tensor([*prompt.input_ids.tolist(), *answer]).numpy()
    labels = torch.full((len(ids),), -100).numpy()
    full = EncodedSample(ids, labels, prompt.question_ends, prompt.instruct_ids, prompt.pixels)
    with torch.no_grad():
        logits = model(processor.collate([full]), return_logits=True).logits
    return logits[0, -len(answer) - 1 : -1].argmax(-1).tolist()
