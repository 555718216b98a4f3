"""Rendered prompts and the reading of conversations."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from fusion.model.template import TEMPLATES, SampleError, Turn, read_turns
from tests.model.tiny import talk

PROMPTS = json.loads((Path(__file__).parents[1] / "reference" / "prompts.json").read_text())
IMAGE_HEAD = "<vision_start><image><vision_end>\n"


@pytest.mark.parametrize(("template", "name"), [(t, n) for t, cases in PROMPTS.items() for n in cases])
def test_prompt_equals_the_recorded_one(template: str, name: str) -> None:
    case = PROMPTS[template][name]
    texts = [text for _, text in case["turns"]]
    turns = [
        Turn(question.removeprefix(IMAGE_HEAD), answer, question.startswith(IMAGE_HEAD))
        for question, answer in zip(texts[::2], texts[1::2], strict=True)
    ]
    assert TEMPLATES[template].render(turns) == case["prompt"]


@pytest.mark.parametrize("question", ["<image>\nwhat ?", "what ?\n<image>", "  what ? <image> "])
def test_image_marker_moves_to_the_front(question: str) -> None:
    assert read_turns(talk(question, " red\n"), True) == [Turn("what ?", "red", True)]


@pytest.mark.parametrize(
    ("texts", "has_image", "reason"),
    [
        ((), False, "no_turns"),
        (("what",), False, "wrong_roles"),
        (("what", "red", "how"), False, "wrong_roles"),
        (("<image>", "red"), True, "empty_question"),
        (("what", " \n"), False, "empty_answer"),
        (("what", "<image> red"), False, "control_token_in_text"),
        (("<image>what", "red"), False, "image_marker_without_image"),
        (("what", "red"), True, "image_without_marker"),
        (("<image><image>what", "red"), True, "too_many_images"),
        (("<image>what", "red", "how <image>", "two"), True, "too_many_images"),
        (("what", "red", "<image>how", "two"), True, "image_not_in_first_turn"),
    ],
)
def test_bad_conversations_have_a_reason(texts: tuple[str, ...], has_image: bool, reason: str) -> None:
    with pytest.raises(SampleError) as caught:
        read_turns(talk(*texts), has_image)
    assert caught.value.reason == reason


def test_roles_must_alternate() -> None:
    with pytest.raises(SampleError, match="wrong_roles"):
        read_turns([{"from": "gpt", "value": "red"}, {"from": "human", "value": "what"}], False)


def test_errors_cross_process_borders() -> None:
    error = pickle.loads(pickle.dumps(SampleError("too_long", "9 > 8")))
    assert (error.reason, error.message) == ("too_long", "9 > 8")
