"""A judge that is down, slow or talks nonsense never becomes a number."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from fusion.evaluate.judge import CACHE, KEY, Judge, JudgeError
from fusion.evaluation_settings import JudgeSettings
from tests.evaluate.judge_server import judging


def judge(root: Path, address: str | None, timeout: float = 5.0, attempts: int = 2, model: str | None = "j1") -> Judge:
    """A judge's client without pauses between its tries."""
    chosen = {"address": address, "model": model, "timeout_seconds": timeout, "attempts": attempts, "wait_seconds": 0.0}
    return Judge(JudgeSettings.model_validate(chosen), root)


def number(words: str) -> bool:
    return words.strip().replace(".", "").isdigit()


def test_the_same_words_are_asked_once(tmp_path: Path) -> None:
    with judging(lambda body: "0.5") as server:
        first = judge(tmp_path, server.address)
        assert first.ask("how good?", number) == "0.5"
        again = judge(tmp_path, server.address)
        assert again.ask("how good?", number) == "0.5"
        assert (first.calls, again.calls, again.remembered, len(server.requests)) == (1, 0, 1, 1)
        other = judge(tmp_path, server.address, model="j2")
        other.ask("how good?", number)
        assert other.calls == 1, "another model is another judge"
        assert server.requests[0]["temperature"] == 0 and server.requests[0]["model"] == "j1"


def test_a_judge_that_is_down(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    client = judge(tmp_path, address)
    with pytest.raises(JudgeError, match=r"2 tries failed, the last one: .*refused"):
        client.ask("how good?", number)
    assert (client.calls, client.failures) == (2, 2)


@pytest.mark.parametrize("code", [500, 401, 302])
def test_a_judge_with_errors(tmp_path: Path, code: int) -> None:
    with judging(lambda body: code) as server:
        with pytest.raises(JudgeError, match=f"HTTP {code}"):
            judge(tmp_path, server.address).ask("how good?", number)
        assert len(server.requests) == 2, "a redirection is not followed: the key must not go elsewhere"


NO_WORDS = b'{"choices": [{"message": {"content": null}}]}'


@pytest.mark.parametrize("answer", [b"", b"not json", b"[]", b'{"choices": []}', NO_WORDS, b"x" * 2_000_000])
def test_a_judge_that_answers_something_else(tmp_path: Path, answer: bytes) -> None:
    with judging(lambda body: answer) as server, pytest.raises(JudgeError, match="tries failed"):
        judge(tmp_path, server.address).ask("how good?", number)


@pytest.mark.parametrize("drips", [False, True])
def test_a_slow_judge(tmp_path: Path, drips: bool) -> None:
    """Silent for long, or with a byte now and then, so that no single wait is long."""

    def late(body: dict[str, Any]) -> Any:
        if drips:
            return [b" "] * 100
        time.sleep(2.0)
        return "1.0"

    with judging(late) as server:
        began = time.monotonic()
        with pytest.raises(JudgeError, match="no answer in time"):
            judge(tmp_path, server.address, timeout=0.3, attempts=1).ask("how good?", number)
        assert time.monotonic() - began < 1.9


def test_nonsense_is_not_remembered_and_a_later_good_word_is(tmp_path: Path) -> None:
    words = iter(["As a judge I cannot", "0.7"])
    with judging(lambda body: next(words)) as server:
        client = judge(tmp_path, server.address)
        assert client.ask("how good?", number) == "0.7" and client.failures == 1
        later = judge(tmp_path, server.address)
        assert later.ask("how good?", number) == "0.7" and (later.calls, later.behind, client.behind) == (0, 2, 2)
    with judging(lambda body: "well, well") as server, pytest.raises(JudgeError, match="cannot be read: 'well, well'"):
        judge(tmp_path, server.address).ask("another", number)


def test_the_key_is_sent_and_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret-of-the-judge")
    with judging(lambda body: "1") as server:
        judge(tmp_path, server.address).ask("how good?", number)
        assert server.keys == ["Bearer secret-of-the-judge"]
    with judging(lambda body: 403) as server, pytest.raises(JudgeError) as caught:
        judge(tmp_path, server.address).ask("other", number)
    kept = "".join(path.read_text() for path in (tmp_path / CACHE).rglob("*.json"))
    assert "secret-of" not in kept + str(caught.value)


def test_a_judge_must_be_set(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="no judge is set"):
        judge(tmp_path, None)
    with pytest.raises(JudgeError, match="no http address"):
        judge(tmp_path, "file:///etc/passwd")
