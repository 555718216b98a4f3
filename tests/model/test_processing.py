"""Encoding: ids, labels, counts, batches."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from fusion.model.batch import EncodedSample
from fusion.model.checkpoints import add_vision_tokens
from fusion.model.processing import FusionProcessor
from fusion.model.template import Message, SampleError
from tests.model.tiny import CONTROL, WORDS, picture, png, shared, talk, tiny_tokenizer

TEMPLATES = ["phi_3", "llama_3"]
texts = st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=6).map(" ".join)
conversations = st.lists(texts, min_size=2, max_size=8).map(lambda parts: talk(*parts[: len(parts) // 2 * 2]))
PICTURE = picture(0)


def marked(conversation: list[Message], has_image: bool) -> list[Message]:
    first = conversation[0]["value"]
    return talk(*(f"<image>{first}" if has_image else first, *(message["value"] for message in conversation[1:])))


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=25, deadline=None)
@given(conversation=conversations, has_image=st.booleans(), latents=st.sampled_from([1, 4, 9]))
def test_counts_and_layout_agree_with_the_encoding(
    template: str, conversation: list[Message], has_image: bool, latents: int
) -> None:
    model, processor = shared(template)
    conversation = marked(conversation, has_image)
    sample = processor.encode(conversation, PICTURE if has_image else None)
    counts = processor.count_tokens(conversation, has_image)
    assert counts.n_turns == len(sample.question_ends) == len(conversation) // 2
    assert counts.n_instruct_tokens == len(sample.instruct_ids)
    assert counts.n_text_tokens == sample.num_text_tokens
    patches = model.config.num_patches
    length = counts.n_text_tokens + patches * has_image + latents * counts.n_turns
    assert length == sample.sequence_length(patches, latents)
    layout = model.layout(processor.collate([sample]), latents)
    assert layout.length == length
    with pytest.raises(SampleError, match="too_long"):
        processor.encode(conversation, PICTURE if has_image else None, max_length=length - 1, num_latents=latents)
    processor.encode(conversation, PICTURE if has_image else None, max_length=length, num_latents=latents)


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=25, deadline=None)
@given(conversation=conversations)
def test_exactly_the_answers_are_supervised(template: str, conversation: list[Message]) -> None:
    _, processor = shared(template)
    sample = processor.encode(conversation, None)
    words = processor.tokenizer.convert_ids_to_tokens(sample.labels[sample.labels >= 0].tolist())
    end = processor.template.turn_end
    assert words == [word for message in conversation[1::2] for word in (*message["value"].split(), end)]
    supervised = sample.labels >= 0
    assert np.array_equal(sample.labels[supervised], sample.input_ids[supervised])
    # The token before each answer is the last of the assistant's header, and the answer follows it.
    assert supervised[sample.question_ends + 1].all() and not supervised[sample.question_ends].any()


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_is_the_sample_up_to_its_last_answer(template: str) -> None:
    _, processor = shared(template)
    conversation = talk("<image>what colour", "red", "how many", "two dogs")
    sample = processor.encode(conversation, PICTURE)
    prompt = processor.encode_prompt(conversation[:-1], png(PICTURE))
    end = sample.question_ends[-1] + 1
    assert np.array_equal(prompt.input_ids, sample.input_ids[:end])
    assert np.array_equal(prompt.question_ends, sample.question_ends)
    assert np.array_equal(prompt.instruct_ids, sample.instruct_ids)
    assert prompt.pixels is not None and sample.pixels is not None and np.array_equal(prompt.pixels, sample.pixels)
    assert (prompt.labels == -100).all()


def test_instruction_is_all_questions_without_separator() -> None:
    _, processor = shared("llama_3")
    sample = processor.encode(talk("<image> what colour ", "red", "\nhow many", "two"), PICTURE)
    words = processor.tokenizer.convert_ids_to_tokens(sample.instruct_ids.tolist())
    assert words == ["<s>", "what", "<unk>", "many"]  # "colour" and "how" touch: "colourhow" is no known word
    assert processor.encode(talk("what", "red"), None).instruct_ids.tolist() == [0]


@pytest.mark.parametrize("text", ["<|end|>", "say <vision_start>", "<latent_image>", "<s>x", "</s>"])
def test_control_tokens_in_text_are_refused(text: str) -> None:
    _, processor = shared("phi_3")
    for conversation in (talk(text, "red"), talk("what", f"red {text}")):
        with pytest.raises(SampleError) as caught:
            processor.encode(conversation, None)
        assert caught.value.reason == "control_token_in_text"
        with pytest.raises(SampleError):
            processor.count_tokens(conversation, False)


def test_ids_that_do_not_line_up_are_refused() -> None:
    _, processor = shared("phi_3")
    processor = FusionProcessor(processor.tokenizer, processor.config)
    processor._header = [*processor._header, 5]
    with pytest.raises(SampleError, match="misaligned_tokens"):
        processor.encode(talk("what", "red"), None)


def test_a_tokenizer_that_does_not_fit_is_refused() -> None:
    _, processor = shared("phi_3")
    with pytest.raises(ValueError, match="<vision_start> is not one token"):
        FusionProcessor(tiny_tokenizer("phi_3"), processor.config)
    foreign = shared("llama_3")[1].tokenizer
    with pytest.raises(ValueError, match="tokenizer"):
        FusionProcessor(foreign, processor.config)


def test_collate_pads_and_shares_pictures() -> None:
    _, processor = shared("phi_3")
    one = processor.encode(talk("<image>what colour is it", "red"), PICTURE)
    other = EncodedSample(one.input_ids[:3], one.labels[:3], one.question_ends, one.instruct_ids[:2], one.pixels)
    text = processor.encode(talk("what", "red"), None)
    batch = processor.collate([one, text, other])
    assert batch["image_index"].tolist() == [0, -1, 0]
    assert batch["pixels"].shape == (1, 5, 3, 16, 16) and batch["pixels"].dtype == torch.uint8
    assert batch["lengths"].tolist() == [len(one.input_ids), len(text.input_ids), 3]
    assert batch["input_ids"][2, 3:].eq(processor.pad_token_id).all() and batch["labels"][2, 3:].eq(-100).all()
    assert batch["instruct_ids"][1].tolist() == [0] * len(one.instruct_ids)
    again = pickle.loads(pickle.dumps(batch.to("cpu")))
    assert again.keys() == batch.keys() and all(torch.equal(again[key], batch[key]) for key in batch)
    assert again.host.keys() == batch.host.keys()
    assert processor.collate([text])["pixels"].shape == (0, 5, 3, 16, 16)
    with pytest.raises(ValueError, match="at least one"):
        processor.collate([])


def test_processor_round_trip(tmp_path: Path) -> None:
    _, processor = shared("llama_3")
    processor.save_pretrained(tmp_path)
    again = FusionProcessor.from_pretrained(tmp_path)
    conversation = talk("<image>what colour", "red")
    left, right = processor.encode(conversation, PICTURE), again.encode(conversation, PICTURE)
    assert np.array_equal(left.input_ids, right.input_ids) and np.array_equal(left.labels, right.labels)
    assert again.config.to_dict() == processor.config.to_dict()
    assert again.decode_answers([left.labels[left.labels >= 0].tolist()]) == ["red"]


def test_tokens_that_swallow_the_newline_after_them_line_up() -> None:
    _, processor = shared("phi_3")
    tokenizer = tiny_tokenizer("phi_3")
    control = [AddedToken(token, rstrip=True, special=True, normalized=False) for token in CONTROL["phi_3"]]
    tokenizer.add_special_tokens({"additional_special_tokens": control})
    add_vision_tokens(tokenizer)
    processor = FusionProcessor(tokenizer, processor.config)
    sample = processor.encode(talk("<image>what colour", "red", "how many", "two dogs"), PICTURE)
    words = tokenizer.convert_ids_to_tokens(sample.input_ids[sample.question_ends].tolist())
    assert words == ["<|assistant|>", "<|assistant|>"]
    supervised = tokenizer.convert_ids_to_tokens(sample.labels[sample.labels >= 0].tolist())
    assert supervised == ["red", "<|end|>", "two", "dogs", "<|end|>"]
