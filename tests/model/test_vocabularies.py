"""Encoding with the real vocabularies of Llama 3.1 and Phi-3.5."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from fusion.model.checkpoints import add_vision_tokens
from fusion.model.configuration import FusionConfig
from fusion.model.processing import FusionProcessor
from fusion.model.template import Turn
from tests.model.tiny import picture, text_config, vision_config
from tests.model.vocabularies import llama3_tokenizer, phi3_tokenizer, reference_files

PROMPTS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "reference" / "prompts.json").read_text())
IMAGE_HEAD = "<vision_start><image><vision_end>\n"
phi3 = pytest.param("phi_3", phi3_tokenizer, marks=pytest.mark.long)
llama3 = pytest.param("llama_3", llama3_tokenizer)


def make_processor(template: str, tokenizer: PreTrainedTokenizerFast) -> FusionProcessor:
    add_vision_tokens(tokenizer)
    config = FusionConfig(
        text_config=text_config(template, vocab_size=len(tokenizer)),
        vision_config=vision_config(),
        template=template,
        pad_token_id=None,
        num_of_vision_sampler_layers=1,
        interaction_heads=4,
    )
    return FusionProcessor(tokenizer, config)


def vectors(texts: Path, ids: Path) -> list[tuple[str, list[int]]]:
    """Texts with the ids that the vocabulary's other implementation gives them."""
    parts = texts.read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    rows = ids.read_text(encoding="utf-8").split("\n")
    return [(text, [int(part) for part in row.split()]) for text, row in zip(parts, rows, strict=False)]


def turns_of(case: dict[str, Any]) -> list[Turn]:
    texts = [text for _, text in case["turns"]]
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return [
        Turn(question.removeprefix(IMAGE_HEAD), answer, question.startswith(IMAGE_HEAD)) for question, answer in pairs
    ]


@pytest.mark.long
def test_phi3_ids_are_those_of_the_other_implementation() -> None:
    tokenizer = phi3_tokenizer()
    checked = vectors(*reference_files()[1:3])
    assert len(checked) > 40
    for text, expected in checked:
        assert tokenizer(text, add_special_tokens=False).input_ids == expected, text


@pytest.mark.long
def test_llama3_ids_are_those_of_the_other_implementation() -> None:
    tokenizer = llama3_tokenizer()
    checked = vectors(*reference_files()[3:])
    assert len(checked) > 40
    for text, expected in checked:
        assert tokenizer(text, add_special_tokens=False).input_ids == expected, text


@pytest.mark.parametrize(
    ("template", "tokenizer", "known"),
    [
        pytest.param(
            "phi_3",
            phi3_tokenizer,
            {"<|end|>": 32007, "<|user|>": 32010, "<|assistant|>": 32001, "<|system|>": 32006, "<unk>": 0},
            marks=pytest.mark.long,
        ),
        (
            "llama_3",
            llama3_tokenizer,
            {"<|eot_id|>": 128009, "<|start_header_id|>": 128006, "<|reserved_special_token_0|>": 128002,
             "<vision_start>": 128256, "<vision_end>": 128257},
        ),
    ],
)  # fmt: skip
def test_known_ids(template: str, tokenizer: Callable[[], PreTrainedTokenizerFast], known: dict[str, int]) -> None:
    processor = make_processor(template, tokenizer())
    assert {token: processor.tokenizer.convert_tokens_to_ids(token) for token in known} == known
    assert processor.pad_token_id == {"phi_3": 0, "llama_3": 128002}[template]


@pytest.mark.parametrize(("template", "tokenizer"), [phi3, llama3])
def test_recorded_prompts(template: str, tokenizer: Callable[[], PreTrainedTokenizerFast]) -> None:
    """The encoded ids are those of the recorded prompt, and exactly the answers with their ends are supervised."""
    processor = make_processor(template, tokenizer())
    end, backend = processor.turn_end_id, processor.tokenizer.backend_tokenizer
    bos = processor.tokenizer("", add_special_tokens=True).input_ids
    for name, case in PROMPTS[template].items():
        turns = turns_of(case)
        image = picture(0) if any(turn.has_image for turn in turns) else None
        sample = processor.encode_turns(turns, image, None, 4)
        pieces = case["prompt"].replace("<image>", "\0-200\0").replace("<latent_image>", "\0-300\0").split("\0")
        expected = list(bos)
        for piece in pieces:
            marker = piece in ("-200", "-300")
            expected += [int(piece)] if marker else backend.encode(piece, add_special_tokens=False).ids
        assert sample.input_ids.tolist() == expected, name
        supervised = np.flatnonzero(sample.labels >= 0)
        instruct = "".join(turn.question for turn in turns)
        wanted = processor.tokenizer(instruct).input_ids if image is not None else [0]
        assert sample.instruct_ids.tolist() == wanted
        assert processor.template.parse(case["prompt"]) == turns
        if turns[-1].answer is None:
            assert not len(supervised)
            continue
        runs = np.split(supervised, np.flatnonzero(np.diff(supervised) > 1) + 1)
        assert len(runs) == len(turns)
        for run, turn, question_end in zip(runs, turns, sample.question_ends, strict=True):
            ids = sample.input_ids[run].tolist()
            assert ids == sample.labels[run].tolist() and ids[-1] == end and end not in ids[:-1]
            assert processor.tokenizer.decode(ids[:-1]).strip() == turn.answer
            assert run[0] == question_end + 1


@pytest.mark.parametrize(("template", "tokenizer"), [phi3, llama3])
def test_prompts_answers_and_text_come_back(template: str, tokenizer: Callable[[], PreTrainedTokenizerFast]) -> None:
    processor = make_processor(template, tokenizer())
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "Wie viele? 3½ 猫!"}],
        },
        {"role": "assistant", "content": "Zwei.\n\nUnd eine Katze."},
        {"role": "user", "content": "Sure?"},
    ]
    features = processor(messages)
    assert (features["input_ids"] < 0).sum() == 3
    text = processor.post_process_image_text_to_text(features["input_ids"])[0]
    assert "Wie viele? 3½ 猫!" in text and "Zwei.\n\nUnd eine Katze." in text and "vision_" not in text
    prompt = processor.apply_chat_template(messages)
    again = processor(prompt, picture(1))
    assert all((features[key] == again[key]).all() for key in features)
    answer = processor.tokenizer("Yes, two.", add_special_tokens=False).input_ids
    assert processor.decode_answers([[*answer, processor.turn_end_id]]) == ["Yes, two."]


@pytest.mark.parametrize(("template", "tokenizer"), [phi3, llama3])
def test_tokens_of_other_families_are_plain_text(
    template: str, tokenizer: Callable[[], PreTrainedTokenizerFast]
) -> None:
    processor = make_processor(template, tokenizer())
    foreign = {"phi_3": "<|eot_id|>", "llama_3": "<|end|>"}[template]
    ids = processor([{"role": "user", "content": f"what is {foreign}?"}])["input_ids"][0].tolist()
    assert foreign in processor.decode(ids) and foreign not in processor.tokenizer.get_vocab()
    stops = ids.count(processor.turn_end_id)
    assert stops == 2  # of the system text and of the question
