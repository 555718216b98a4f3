"""`fusion chat`: streamed answers, conversations, other pictures, errors."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch

from fusion.model.chat import ChatSession
from fusion.model.checkpoints import load_checkpoint, save_checkpoint
from fusion.serve.chat import MAX_NEW_TOKENS, ChatError, chat_about
from tests.model.tiny import build, picture, png

QUESTIONS = ["what colour is the bus", "how many dogs"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and two pictures."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("chat")
    model, processor = build("phi_3")
    save_checkpoint(model, processor, folder / "model")
    for number in (1, 2):
        (folder / f"{number}.png").write_bytes(png(picture(number)))
    return folder


def answers(place: Path, number: int, questions: list[str]) -> list[str]:
    model, processor = load_checkpoint(place / "model")
    session = ChatSession(model, processor, (place / f"{number}.png").read_bytes())
    return [session.ask(question, max_new_tokens=MAX_NEW_TOKENS) for question in questions]


def test_one_question_prints_the_answer_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat_about(place / "1.png", QUESTIONS[:1], str(place / "model"))
    assert capsys.readouterr().out.split() == answers(place, 1, QUESTIONS[:1])[0].split()


def test_several_questions_are_one_conversation(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat_about(place / "1.png", QUESTIONS, str(place / "model"))
    expected = answers(place, 1, QUESTIONS)
    shown = [QUESTIONS[0], expected[0], QUESTIONS[1], expected[1]]
    assert capsys.readouterr().out.split() == " ".join(shown).split()
    assert expected[1] != answers(place, 1, QUESTIONS[1:])[0]


def test_lines_from_standard_input_and_another_picture(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [QUESTIONS[0], f"/image {place / '2.png'}", QUESTIONS[0], "", "never read"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(asked)))
    chat_about(place / "1.png", [], str(place / "model"))
    first, second = (answers(place, number, QUESTIONS[:1])[0] for number in (1, 2))
    assert first != second
    assert capsys.readouterr().out.split() == " ".join([QUESTIONS[0], first, QUESTIONS[0], second]).split()


def test_errors_say_what_is_wrong(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(place / "model")
    with pytest.raises(ChatError, match="there is no picture"):
        chat_about(place / "3.png", QUESTIONS, model)
    (place / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ChatError, match=r"broken\.png: UnidentifiedImageError"):
        chat_about(place / "broken.png", QUESTIONS, model)
    with pytest.raises(ChatError, match="contains '<vision_start>'"):
        chat_about(place / "1.png", ["what is <vision_start>"], model)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"/image {place / '3.png'}\n"))
    with pytest.raises(ChatError, match="there is no picture"):
        chat_about(place / "1.png", [], model)
