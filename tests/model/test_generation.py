"""Greedy answers of batches."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion.model.batch import EncodedSample
from fusion.model.processing import FusionProcessor
from tests.model.tiny import WORDS, likeliest_tokens, picture, shared, talk

FAMILIES = ["phi_3", "llama_3"]
questions = st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=9)


def prompts(processor: FusionProcessor) -> list[EncodedSample]:
    return [
        processor.encode_prompt(talk("<image>what colour is the bus"), picture(1)),
        processor.encode_prompt(talk("name one prime"), None),
        processor.encode_prompt(talk("<image>how many", "two", "what colour", "red", "is it"), picture(2)),
        processor.encode_prompt(talk("how many", "two", "is it"), None),
        processor.encode_prompt(talk("<image>yes"), picture(3)),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_answers_equal_single_ones(family: str) -> None:
    model, processor = shared(family)
    every = prompts(processor)
    together = model.generate_answers(processor.collate(every), 6)
    assert together == [model.generate_answers(processor.collate([prompt]), 6)[0] for prompt in every]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(questions, st.booleans()), min_size=2, max_size=5))
def test_any_mixture_equals_single_ones(asked: list[tuple[list[str], bool]]) -> None:
    model, processor = shared("phi_3")
    every = [
        processor.encode_prompt(talk(("<image>" if seen else "") + " ".join(words)), picture(4) if seen else None)
        for words, seen in asked
    ]
    together = model.generate_answers(processor.collate(every), 4, num_latents=1)
    assert together == [model.generate_answers(processor.collate([one]), 4, num_latents=1)[0] for one in every]


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding_equals_a_full_forward_pass(family: str) -> None:
    model, processor = shared(family)
    prompt = prompts(processor)[2]
    (answer,) = model.generate_answers(processor.collate([prompt]), 5, stop_ids=())
    assert len(answer) == 5
    assert likeliest_tokens(model, processor, prompt, answer) == answer


def test_answers_stop_at_any_stop_token_and_the_limit() -> None:
    model, processor = shared("phi_3")
    batch = processor.collate(prompts(processor))
    free = model.generate_answers(batch, 6, stop_ids=())
    assert all(len(answer) == 6 for answer in free)
    for stop in {answer[index] for answer in free for index in (0, 2, 3)}:
        stopped = model.generate_answers(batch, 6, stop_ids=(stop,))
        cut = [answer[: answer.index(stop)] if stop in answer else answer for answer in free]
        assert stopped == cut
    assert model.generate_answers(batch, 1, stop_ids=()) == [answer[:1] for answer in free]


def test_answers_do_not_change_from_call_to_call() -> None:
    model, processor = shared("llama_3")
    batch = processor.collate(prompts(processor))
    assert model.generate_answers(batch, 4) == model.generate_answers(batch, 4)
