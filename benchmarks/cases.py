"""Models and batches that the benchmarks measure: random weights, random text, random pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fusion.model.batch import IGNORED, IMAGE_MARKER, LATENT_MARKER, EncodedSample, FusionBatch, collate
from fusion.model.configuration import FusionConfig


@dataclass(frozen=True)
class Talk:
    """One sample: tokens of question and answer of each turn."""

    turns: tuple[tuple[int, int], ...]
    picture: bool = True


@dataclass(frozen=True)
class Case:
    """What one measurement runs.

    Attributes:
        text, vision: fields of the two configurations.
        talks: the samples of the batch.
        num_latents: q.
        fusion: further fields of FusionConfig.
    """

    text: dict[str, Any]
    vision: dict[str, Any]
    talks: tuple[Talk, ...]
    num_latents: int
    fusion: dict[str, Any]

    def config(self) -> FusionConfig:
        """The model's configuration."""
        return FusionConfig(
            text_config={"model_type": "phi3", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **self.text},
            vision_config={"model_type": "siglip_vision_model", **self.vision},
            num_latents=self.num_latents,
            **self.fusion,
        )

    def batch(self, seed: int = 0) -> FusionBatch:
        """The batch, on the host."""
        return make_batch(self.talks, self.text["vocab_size"], self.vision["image_size"], seed)


def make_batch(talks: Sequence[Talk], vocabulary: int, image_size: int, seed: int = 0) -> FusionBatch:
    """A batch of random tokens and pixels in the form that the processor makes."""
    generator = np.random.default_rng(seed)

    def words(count: int) -> list[int]:
        return generator.integers(3, vocabulary, count).tolist()

    samples = []
    for talk in talks:
        ids, labels, ends, instruction = words(12), [IGNORED] * 12, [], [1]
        for number, (question_length, answer_length) in enumerate(talk.turns):
            question, answer = words(question_length), words(answer_length)
            marks = [LATENT_MARKER, IMAGE_MARKER] if number == 0 and talk.picture else [LATENT_MARKER]
            asked = [*words(3), *marks, *question, *words(3)]
            instruction += question
            ids += asked
            labels += [IGNORED] * len(asked)
            ends.append(len(ids) - 1)
            ids += answer
            labels += answer
        size = (5, 3, image_size, image_size)
        samples.append(
            EncodedSample(
                input_ids=np.array(ids, dtype=np.int64),
                labels=np.array(labels, dtype=np.int64),
                question_ends=np.array(ends, dtype=np.int64),
                instruct_ids=np.array(instruction if talk.picture else [0], dtype=np.int64),
                pixels=generator.integers(0, 256, size, dtype=np.uint8) if talk.picture else None,
            )
        )
    return collate(samples, 0, image_size)


THREE_TURNS = Talk(((25, 40), (20, 35), (15, 30)))
ONE_TURN = Talk(((40, 60),))
TEXT_ONLY = (Talk(((60, 120),), picture=False), Talk(((30, 50), (30, 50)), picture=False))

# The so400m tower at a width of 256: the same depth, patches and proportions (MLP 4304 / 1152 of the width; heads of
# 64). The language model has Phi-3.5's proportions (MLP 8192 / 3072 of the width) at a width of 512.
MIDDLE = Case(
    text={
        "vocab_size": 32064, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 8,
    },
    vision={
        "hidden_size": 256, "intermediate_size": 960, "num_hidden_layers": 27, "num_attention_heads": 4,
        "image_size": 384, "patch_size": 14,
    },
    talks=(THREE_TURNS, ONE_TURN),
    num_latents=144,
    fusion={"num_of_vision_sampler_layers": 3},
)  # fmt: skip
TINY = Case(
    text={
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    },
    vision={
        "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 5, "num_attention_heads": 2,
        "image_size": 16, "patch_size": 4,
    },
    talks=(Talk(((6, 5), (3, 4), (2, 3))), Talk(((5, 4),))),
    num_latents=4,
    fusion={"num_of_vision_sampler_layers": 2, "stride_of_vision_sampler_layers": 1, "interaction_heads": 4},
)  # fmt: skip
TINY_TEXT_ONLY = (Talk(((4, 6),), picture=False), Talk(((3, 2), (2, 3)), picture=False))


def cases(tiny: bool) -> dict[str, Case]:
    """The case itself, with the vocabulary of Llama 3, and with two text-only samples more."""
    base = TINY if tiny else MIDDLE
    large = replace(base, text=base.text | {"vocab_size": 400 if tiny else 128258})
    mixed = replace(base, talks=base.talks + (TINY_TEXT_ONLY if tiny else TEXT_ONLY))
    return {"base": base, "vocabulary_128k": large, "text_only_samples": mixed}


def seeded(build: Any, config: FusionConfig) -> Any:
    """A model of this class from this configuration, with the same weights for every class."""
    torch.manual_seed(0)
    return build(config)
