"""`generate` in the shape of the Transformers library: loops, options, padding, errors."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    GenerationConfig,
    MaxLengthCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
)
from transformers.generation import LogitsProcessor, LogitsProcessorList

from fusion.model.batch import EncodedSample, FusionBatch
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.model.processing import FusionProcessor
from tests.model.test_generation import FAMILIES, prompts
from tests.model.tiny import build, likeliest_tokens, picture, shared, talk

FREE: dict[str, Any] = {"eos_token_id": [], "do_sample": False}


def left_padded(batch: FusionBatch) -> dict[str, Tensor]:
    """The same prompts with the padding before them; question ends move along."""
    width = batch["input_ids"].shape[1]
    shifts = width - batch["lengths"]
    rows = range(batch.size)
    mask = torch.arange(width) < batch["lengths"][:, None]
    ids = torch.stack([batch["input_ids"][row].roll(int(shifts[row])) for row in rows])
    mask = torch.stack([mask[row].roll(int(shifts[row])) for row in rows])
    ends = torch.where(batch["question_ends"] >= 0, batch["question_ends"] + shifts[:, None], -1)
    kept = {key: batch[key] for key in ("instruct_ids", "image_index", "pixels")}
    return {"input_ids": ids, "attention_mask": mask.long(), "question_ends": ends, **kept}


def log_probability(
    model: FusionForConditionalGeneration, prompt: EncodedSample, answer: list[int], processor: FusionProcessor
) -> float:
    """Sum of the log-probabilities of an answer, from one training forward pass."""
    ids = torch.tensor([*prompt.input_ids.tolist(), *answer]).numpy()
    full = EncodedSample(
        ids, torch.full((len(ids),), -100).numpy(), prompt.question_ends, prompt.instruct_ids, prompt.pixels
    )
    with torch.no_grad():
        logits = model(processor.collate([full]), return_logits=True).logits[0, -len(answer) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_either_padding_gives_what_single_prompts_give(family: str) -> None:
    model, processor = shared(family)
    every = prompts(processor)
    batch = processor.collate(every)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = model.generate(**batch, max_new_tokens=6, **FREE)
        padded = left_padded(batch)
        left = model.generate(**padded, max_new_tokens=6, **FREE)
    assert right.dtype == torch.int64
    assert torch.equal(right[:, :-6], batch["input_ids"]) and torch.equal(left[:, :-6], padded["input_ids"])
    assert torch.equal(right[:, -6:], left[:, -6:])
    for row, one in enumerate(every):
        single = processor.collate([one])
        alone = model.generate(**single, max_new_tokens=6, **FREE)
        assert alone[0].tolist() == [*one.input_ids.tolist(), *right[row, -6:].tolist()]
    assert right[:, -6:].tolist() == model.generate_answers(batch, 6, stop_ids=())


def test_what_can_be_derived_may_be_left_out() -> None:
    model, processor = shared("phi_3")
    batch = processor.collate([prompts(processor)[index] for index in (0, 1, 4)])
    expected = model.generate(**batch, max_new_tokens=5, **FREE)
    mask = (torch.arange(batch["input_ids"].shape[1]) < batch["lengths"][:, None]).long()
    few = {key: batch[key] for key in ("input_ids", "instruct_ids", "pixels")}
    assert torch.equal(model.generate(**few, attention_mask=mask, max_new_tokens=5, **FREE), expected)
    text = processor.collate(prompts(processor)[1:2])
    alone = model.generate(text["input_ids"], max_new_tokens=5, **FREE)
    assert torch.equal(alone[0, -5:], expected[1, -5:])


def test_finished_rows_are_padded_and_the_defaults_stop_at_the_end_of_turn() -> None:
    model, processor = shared("phi_3")
    batch = processor.collate(prompts(processor))
    width = batch["input_ids"].shape[1]
    free = model.generate(**batch, max_new_tokens=6, **FREE)[:, width:]
    stop = int(free[0, 2])
    stopped = model.generate(**batch, max_new_tokens=6, eos_token_id=stop, do_sample=False)[:, width:]
    for row in range(batch.size):
        end = free[row].tolist().index(stop) + 1 if stop in free[row] else 6
        length = min(end, stopped.shape[1])
        assert torch.equal(stopped[row, :length], free[row, :length])
        assert (stopped[row, end:] == processor.pad_token_id).all()
    forced = _Forced(processor.turn_end_id)
    ended = model.generate(**batch, max_new_tokens=6, logits_processor=LogitsProcessorList([forced]))
    assert ended.shape[1] == width + 1


class _Forced(LogitsProcessor):
    """Makes one token certain, and records what it was shown."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.shown: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.shown = input_ids
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([self.token]), 0.0)


def test_logits_processors_see_no_markers_and_penalties_work() -> None:
    model, processor = shared("llama_3")
    batch = processor.collate(prompts(processor))
    forced = _Forced(5)
    made = model.generate(**batch, max_new_tokens=2, logits_processor=LogitsProcessorList([forced]), **FREE)
    assert forced.shown is not None and int(forced.shown.min()) >= 0
    assert (made[:, -2:] == 5).all() and int(made.min()) == -300
    plain = model.generate(**batch, max_new_tokens=8, **FREE)[:, -8:]
    fresh = model.generate(**batch, max_new_tokens=8, no_repeat_ngram_size=1, repetition_penalty=1.5, **FREE)[:, -8:]
    assert not torch.equal(plain, fresh)
    assert all(len(set(row)) == 8 for row in fresh.tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_beam_search_finds_scores_that_a_forward_pass_confirms(family: str) -> None:
    model, processor = shared(family)
    every = prompts(processor)
    batch = processor.collate(every)
    width = batch["input_ids"].shape[1]
    beams: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 5, "length_penalty": 0.0, **FREE}
    found = model.generate(**batch, **beams, num_return_sequences=2, return_dict_in_generate=True, output_scores=True)
    assert found.sequences.shape == (2 * batch.size, width + 5)
    assert torch.equal(found.sequences[::2, :width], batch["input_ids"])
    greedy = model.generate(**batch, max_new_tokens=5, **FREE)[:, width:].tolist()
    better = 0
    for row, prompt in enumerate(every):
        for rank in (0, 1):
            answer = found.sequences[2 * row + rank, width:].tolist()
            own = log_probability(model, prompt, answer, processor)
            assert float(found.sequences_scores[2 * row + rank]) == pytest.approx(own, abs=1e-3)
        best = found.sequences[2 * row, width:].tolist()
        gain = log_probability(model, prompt, best, processor) - log_probability(model, prompt, greedy[row], processor)
        better += best != greedy[row] and gain > 1e-4
        alone = model.generate(**processor.collate([prompt]), **beams)
        assert alone[0, -5:].tolist() == best
    assert better


def test_sampling_follows_the_distribution_and_the_seed() -> None:
    model, processor = shared("phi_3")
    batch = processor.collate(prompts(processor)[:1])
    options: dict[str, Any] = {"eos_token_id": [], "do_sample": True, "max_new_tokens": 1, "temperature": 0.7}
    torch.manual_seed(0)
    drawn = model.generate(**batch, num_return_sequences=3000, top_k=0, **options)[:, -1]
    torch.manual_seed(0)
    assert torch.equal(drawn, model.generate(**batch, num_return_sequences=3000, top_k=0, **options)[:, -1])
    first = model.generate(**batch, max_new_tokens=1, return_dict_in_generate=True, output_logits=True, **FREE).logits[
        0
    ][0]
    expected = (first / 0.7).softmax(-1)
    seen = torch.bincount(drawn, minlength=len(expected)) / len(drawn)
    assert (seen - expected).abs().max() < 0.05
    narrow = model.generate(**batch, num_return_sequences=50, top_p=1e-6, **options)[:, -1]
    assert (narrow == first.argmax()).all()


def test_streams_text_and_stops_on_criteria(capsys: pytest.CaptureFixture[str]) -> None:
    model, processor = shared("phi_3")
    batch = processor.collate(prompts(processor)[:1])
    (answer,) = model.generate_answers(batch, 6, stop_ids=())
    expected = processor.tokenizer.decode(answer, skip_special_tokens=True)
    model.generate(
        **batch,
        max_new_tokens=6,
        streamer=TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True),
        **FREE,
    )
    assert capsys.readouterr().out.strip() == expected.strip()
    pieces = TextIteratorStreamer(processor.tokenizer, skip_prompt=False)
    model.generate(**batch, max_new_tokens=6, streamer=pieces, **FREE)
    assert expected.split()[-1] in "".join(pieces)
    limit = StoppingCriteriaList([MaxLengthCriteria(batch["input_ids"].shape[1] + 2)])
    assert model.generate(**batch, max_new_tokens=6, stopping_criteria=limit, **FREE)[0, -2:].tolist() == answer[:2]


def test_a_generation_config_and_single_options_mean_the_same() -> None:
    model, processor = shared("phi_3")
    batch = processor.collate(prompts(processor))
    config = GenerationConfig(max_new_tokens=4, num_beams=3, eos_token_id=processor.turn_end_id)
    together = model.generate(**batch, generation_config=config)
    assert torch.equal(together, model.generate(**batch, max_new_tokens=4, num_beams=3))
    assert config.max_new_tokens == 4 and config.pad_token_id is None


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_gives_the_same(family: str) -> None:
    model, processor = build(family)
    batch = processor.collate(prompts(processor))
    expected = model.generate(**batch, max_new_tokens=6, **FREE)
    model.set_attn_implementation("eager")
    assert model.model.config.text_config._attn_implementation == "eager"
    assert torch.equal(model.generate(**batch, max_new_tokens=6, **FREE), expected)


def test_a_sliding_window_holds_while_decoding() -> None:
    model, processor = build("phi_3")
    model.config.text_config.sliding_window = 8
    every = prompts(processor)
    together = model.generate_answers(processor.collate(every), 5, stop_ids=())
    for prompt, answer in zip(every, together, strict=True):
        assert model.generate_answers(processor.collate([prompt]), 5, stop_ids=()) == [answer]
        assert likeliest_tokens(model, processor, prompt, answer) == answer


def test_fewer_image_tokens() -> None:
    model, processor = shared("llama_3")
    batch = processor.collate(prompts(processor))
    full = model.prompt(batch).segment()
    assert torch.equal(model.prompt(batch, image_token_grid=4).segment().embeddings, full.embeddings)
    small = model.prompt(batch, image_token_grid=2)
    segment = small.segment()
    assert segment.lengths == [
        length - (16 - 4 if sample.pixels is not None else 0)
        for length, sample in zip(full.lengths, prompts(processor), strict=True)
    ]
    start = int((batch["input_ids"][0] < 0).nonzero()[0])
    before = full.embeddings[0, start : start + 16].T.view(1, -1, 4, 4)
    after = F.interpolate(before, size=(2, 2), mode="bilinear", align_corners=False).flatten(2)[0].T
    torch.testing.assert_close(segment.embeddings[0, start : start + 4], after, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(segment.embeddings[0, start + 4], full.embeddings[0, start + 16])
    answers = model.generate_answers(batch, 4, stop_ids=(), image_token_grid=2)
    configured, _ = build("llama_3", image_token_grid=2)
    assert configured.generate_answers(batch, 4, stop_ids=()) == answers


def test_nothing_is_left_on_the_model_and_training_goes_on() -> None:
    model, processor = build("phi_3")
    batch = processor.collate(prompts(processor))
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    model.generate(**batch, max_new_tokens=3, num_beams=2)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    sample = processor.encode(talk("<image>what colour", "red"), picture(1))
    model(processor.collate([sample])).loss.backward()


def test_wrong_arguments_are_named() -> None:
    model, processor = shared("phi_3")
    batch = processor.collate(prompts(processor))
    fields = dict(batch)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"lengths": None}, "attention_mask: is needed"),
        ({"attention_mask": torch.ones(1, 2)}, "attention_mask: has shape"),
        ({"attention_mask": torch.arange(batch["input_ids"].shape[1]).expand(5, -1) % 2}, "must be one run"),
        ({"question_ends": None}, "question_ends: is needed, as sample 2 has 3 questions"),
        ({"pixels": None}, "image_index, pixels: 3 of 5 samples"),
        ({"pixels": batch["pixels"].float()}, "pixels: expected uint8"),
        ({"instruct_ids": None}, "instruct_ids: is needed"),
        ({"num_latents": 5}, "num_latents: 5 is not a square"),
        ({"image_token_grid": -1}, "image_token_grid: -1"),
        ({"use_cache": False}, "use_cache"),
        ({"cache_implementation": "static"}, "cache_implementation"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions"),
        ({"max_new_tokens": 10**6}, "max_new_tokens: prompt and answer take up to"),
        ({"prompt_lookup_num_tokens": 2}, "only supports"),
        ({"max_nu_tokens": 2}, "max_nu_tokens"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            model.generate(**(fields | {"max_new_tokens": 3} | changes))


def test_longrope_stays_on_one_side_of_its_turn() -> None:
    factors = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5]
    model, processor = build("phi_3")
    config = model.config.text_config
    batch = processor.collate(prompts(processor))
    longest = max(model.prompt(batch).lengths)
    shortest = min(model.prompt(batch).lengths)
    config.original_max_position_embeddings = longest + 3
    config.rope_parameters = {
        "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 1.0, "short_factor": factors,
        "long_factor": factors[::-1],
    }  # fmt: skip
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    answers = model.generate_answers(batch, 4, stop_ids=())
    singles = [model.generate_answers(processor.collate([one]), 4, stop_ids=())[0] for one in prompts(processor)]
    assert answers == singles
    with pytest.raises(ValueError, match=r"pass \d+ positions .* at most 4 tokens"):
        model.generate_answers(batch, 5, stop_ids=())
    config.rope_parameters["original_max_position_embeddings"] = shortest
    with pytest.raises(ValueError, match="cannot share a batch"):
        model.generate_answers(batch, 1, stop_ids=())
