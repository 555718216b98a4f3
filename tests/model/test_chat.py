"""Conversations that keep the cache: what a later turn means, and what stays when one fails."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TextStreamer
from transformers.generation import LogitsProcessor, LogitsProcessorList

from fusion.model.batch import EncodedSample
from fusion.model.chat import ChatSession
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.model.processing import FusionProcessor
from fusion.model.sight import PictureCache
from fusion.model.template import SampleError
from tests.model.test_generation import FAMILIES
from tests.model.tiny import build, picture, shared, talk

QUESTIONS = ["what colour is the bus", "how many dogs", "is it left of the tree"]


class Recorder(LogitsProcessor):
    """Keeps the scores of every step."""

    def __init__(self) -> None:
        self.scores: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.scores.append(scores.clone())
        return scores


def whole(
    processor: FusionProcessor, session: ChatSession, seen: bool, instruction: str, ends: list[int]
) -> EncodedSample:
    """The conversation as one prompt, guided by an instruction; `ends` = last position of each header."""
    ids = torch.tensor(session.ids[: ends[-1] + 1]).numpy()
    labels = torch.full((len(ids),), -100).numpy()
    image = picture(3) if seen else None
    guide = processor.encode_prompt(talk(("<image>" if seen else "") + instruction), image)
    return EncodedSample(ids, labels, torch.tensor(ends).numpy(), guide.instruct_ids, guide.pixels)


def tower_rows(model: FusionForConditionalGeneration) -> tuple[list[int], Any]:
    """Rows that the tower encodes from now on: without text, and with it."""
    rows: list[int] = []

    def count(_module: Any, args: Any, _output: Any) -> None:
        plain, _guided, guided_rows, _mode = args
        rows.extend([len(plain)] + ([] if guided_rows is None else [len(guided_rows.patches.lengths)]))

    layer = model.model.vision_tower.layers.encoder["layers"][0]
    return rows, layer.register_forward_hook(count)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seen", [True, False])
def test_a_later_turn_equals_a_full_prefill_guided_by_the_first_question(family: str, seen: bool) -> None:
    model, processor = shared(family)
    session = ChatSession(model, processor, picture(3) if seen else None)
    ends: list[int] = []
    for turn, question in enumerate(QUESTIONS):
        recorder, before = Recorder(), len(session.ids)
        # Turn 1 is cut by the limit, the others end where the model ends them or are cut.
        text = session.ask(question, max_new_tokens=4 + turn, logits_processor=LogitsProcessorList([recorder]))
        header = len(processor._header)
        new = session.ids[before:]
        starts = [i for i in range(len(new)) if new[i + 1 - header : i + 1] == processor._header]
        ends.append(before + starts[-1])
        full = whole(processor, session, seen, QUESTIONS[0], ends)
        with torch.no_grad():
            logits = model(processor.collate([full]), return_logits=True).logits[0, -1]
        torch.testing.assert_close(recorder.scores[0][0], logits, rtol=1e-4, atol=2e-5)
        (answer,) = model.generate_answers(processor.collate([full]), 4 + turn, stop_ids=tuple(model.stop_ids()))
        assert session.ids[ends[-1] + 1 :] == answer
        assert text == processor.decode_answers([answer])[0]
    if seen:
        other = whole(processor, session, seen, " ".join(QUESTIONS), ends)
        with torch.no_grad():
            changed = model(processor.collate([other]), return_logits=True).logits[0, -1]
        assert (changed - logits).abs().max() > 1e-3
    assert [message["from"] for message in session.messages] == ["human", "gpt"] * 3


@pytest.mark.parametrize("seen", [True, False])
def test_ids_of_a_conversation_are_those_of_the_processor(seen: bool) -> None:
    model, processor = shared("llama_3")
    session = ChatSession(model, processor, picture(3) if seen else None)
    session.ask(QUESTIONS[0], max_new_tokens=3)
    (begun,) = [message["value"] for message in session.messages if message["from"] == "gpt"]
    expected = processor.encode_prompt(
        talk(("<image>" if seen else "") + QUESTIONS[0], begun, QUESTIONS[1]), picture(3) if seen else None
    )
    length = len(session.ids)
    session.ask(QUESTIONS[1], max_new_tokens=1)
    stop = expected.input_ids.tolist().index(processor.turn_end_id, int(expected.question_ends[0]))
    tail = expected.input_ids.tolist()[stop:]
    assert session.ids[length : length + len(tail)] == tail


def test_a_second_turn_reads_its_own_tokens_alone_and_no_picture() -> None:
    model, processor = shared("phi_3")
    session = ChatSession(model, processor, picture(3))
    rows, hook = tower_rows(model)
    positions: list[int] = []
    decoder = model.model.layers[0].register_forward_pre_hook(lambda _m, args: positions.append(args[0].shape[1]))
    session.ask(QUESTIONS[0], max_new_tokens=3, eos_token_id=[])
    assert sorted(rows) == [1, 4] and positions[0] == session.length - 2 and positions[1:] == [1, 1]
    rows.clear()
    positions.clear()
    before, held = len(session.ids), session.length
    session.ask(QUESTIONS[1], max_new_tokens=3, eos_token_id=[])
    assert rows == []
    prompt = len(session.ids) - before - 3
    # One unread token of the cut answer, and q latents in the place of one marker.
    assert positions[0] == 1 + prompt - 1 + model.config.num_latents
    assert session.length == held + positions[0] + 2
    hook.remove()
    decoder.remove()


def test_pictures_are_encoded_once_for_all_sessions() -> None:
    model, processor = build("phi_3")
    pictures = PictureCache()
    rows, hook = tower_rows(model)
    first = ChatSession(model, processor, picture(3), pictures=pictures)
    answers = [first.ask(question, max_new_tokens=3) for question in QUESTIONS]
    assert pictures.misses == 1 and sorted(rows) == [1, 4]
    second = ChatSession(model, processor, picture(3), pictures=pictures)
    rows.clear()
    assert [second.ask(question, max_new_tokens=3) for question in QUESTIONS] == answers
    assert pictures.misses == 1 and sorted(rows) == [0, 1]
    ChatSession(model, processor, picture(4), pictures=pictures).ask(QUESTIONS[0], max_new_tokens=1)
    ChatSession(model, processor, picture(3), pictures=pictures, num_latents=9).ask(QUESTIONS[0], max_new_tokens=1)
    assert pictures.misses == 3
    with torch.no_grad():
        model.model.mm_projector[0].weight.mul_(1.01)
    changed = ChatSession(model, processor, picture(3), pictures=pictures)
    changed.ask(QUESTIONS[0], max_new_tokens=1)
    assert pictures.misses == 4
    twin, _ = build("phi_3")
    ChatSession(twin, processor, picture(3), pictures=pictures).ask(QUESTIONS[0], max_new_tokens=1)
    assert pictures.misses == 5 and len(pictures) == 5
    hook.remove()


def test_a_batch_with_known_pictures_gives_the_same_answers() -> None:
    model, processor = shared("llama_3")
    pictures = PictureCache()
    every = [
        processor.encode_prompt(talk("<image>what colour"), picture(5)),
        processor.encode_prompt(talk("name one prime"), None),
        processor.encode_prompt(talk("<image>how many", "two", "is it"), picture(6)),
    ]
    alone = [model.generate_answers(processor.collate([one]), 4, stop_ids=())[0] for one in every]
    for chosen in ([0], [1], [0, 1, 2], [2, 1, 0]):
        batch = processor.collate([every[index] for index in chosen])
        answers = model.generate_answers(batch, 4, stop_ids=(), pictures=pictures)
        assert answers == [alone[index] for index in chosen]
    assert pictures.misses == 3 and pictures.hits == 5


def test_the_picture_cache_stays_within_its_bytes_and_forgets_the_oldest() -> None:
    model, processor = shared("phi_3")
    ask: dict[str, Any] = {"question": QUESTIONS[0], "max_new_tokens": 1}
    pictures = PictureCache()
    ChatSession(model, processor, picture(1), pictures=pictures).ask(**ask)
    one = pictures.size
    # q latents and q windows of 9 vectors, float32
    assert one == 4 * (4 + 4 * 9) * 64
    small = PictureCache(max_bytes=2 * one)
    for number in (1, 2, 1, 3, 1, 2):
        ChatSession(model, processor, picture(number), pictures=small).ask(**ask)
        assert small.size <= 2 * one
    assert (small.hits, small.misses, len(small)) == (2, 4, 2)
    none = PictureCache(max_bytes=one - 1)
    ChatSession(model, processor, picture(1), pictures=none).ask(**ask)
    assert len(none) == 0 and none.size == 0


def test_a_picture_cache_does_not_keep_models_alive() -> None:
    model, processor = build("phi_3")
    pictures = PictureCache()
    ChatSession(model, processor, picture(1), pictures=pictures).ask(QUESTIONS[0], max_new_tokens=1)
    del model, processor
    gc.collect()
    assert len(pictures._models) == 0


class Broken(TextStreamer):
    """Fails at its third token."""

    count = 0

    def put(self, value: Any) -> None:
        self.count += 1
        if self.count == 4:
            raise RuntimeError("the reader has gone")


def test_a_turn_that_fails_leaves_no_trace() -> None:
    model, processor = shared("phi_3")
    options: dict[str, Any] = {"max_new_tokens": 5, "eos_token_id": []}
    straight = ChatSession(model, processor, picture(3))
    expected = [straight.ask(question, **options) for question in QUESTIONS]
    session = ChatSession(model, processor, picture(3))
    answers = []
    for question in QUESTIONS:
        before = (session.length, session.ids, list(session.messages))
        with pytest.raises(RuntimeError, match="has gone"):
            session.ask(question, streamer=Broken(processor.tokenizer), **options)
        with pytest.raises(SampleError, match="control_token"):
            session.ask("what <vision_start>", **options)
        with pytest.raises(ValueError, match="max_new_tokens: prompt and answer"):
            session.ask(question, max_new_tokens=10**6)
        with pytest.raises(ValueError, match="num_beams"):
            session.ask(question, num_beams=2)
        assert (session.length, session.ids, session.messages) == before
        answers.append(session.ask(question, **options))
    assert answers == expected and session.ids == straight.ids


def test_answers_stream_and_can_be_left() -> None:
    model, processor = shared("llama_3")
    straight, streamed = (ChatSession(model, processor, picture(3)) for _ in range(2))
    for question in QUESTIONS[:2]:
        pieces = list(streamed.stream(question, max_new_tokens=6, eos_token_id=[]))
        assert "".join(pieces).strip() == straight.ask(question, max_new_tokens=6, eos_token_id=[])
    assert streamed.ids == straight.ids
    length, threads = len(streamed.ids), threading.active_count()
    stream = streamed.stream(QUESTIONS[2], max_new_tokens=1000, eos_token_id=[])
    next(stream)
    stream.close()
    assert length < len(streamed.ids) < length + 900
    assert threading.active_count() <= threads
    with pytest.raises(SampleError):
        list(streamed.stream("<image>"))
    assert streamed.ask("is it", max_new_tokens=2) is not None


def test_eager_attention_and_fewer_image_tokens_in_a_chat() -> None:
    model, processor = build("llama_3")
    expected = [ChatSession(model, processor, picture(3))]
    texts = [expected[0].ask(question, max_new_tokens=4) for question in QUESTIONS]
    model.set_attn_implementation("eager")
    again = ChatSession(model, processor, picture(3))
    assert [again.ask(question, max_new_tokens=4) for question in QUESTIONS] == texts
    small = ChatSession(model, processor, picture(3), image_token_grid=2)
    for question in QUESTIONS:
        small.ask(question, max_new_tokens=4, eos_token_id=[])
    # One marker becomes 2 x 2 image tokens and three become 4 latents each; the last token is not read yet.
    assert small.length == (len(small.ids) - 4) + 4 + 3 * 4 - 1


def test_longrope_does_not_let_a_chat_cross_its_turn() -> None:
    model, processor = build("phi_3")
    config = model.config.text_config
    session = ChatSession(model, processor, picture(3))
    session.ask(QUESTIONS[0], max_new_tokens=2, eos_token_id=[])
    config.original_max_position_embeddings = session.length + 5
    config.rope_parameters = {
        "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
        "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
    }  # fmt: skip
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    session = ChatSession(model, processor, picture(3))
    session.ask(QUESTIONS[0], max_new_tokens=2, eos_token_id=[])
    with pytest.raises(ValueError, match="a conversation"):
        session.ask(QUESTIONS[1], max_new_tokens=2, eos_token_id=[])
    assert len(session.messages) == 2
