"""Questions in batches: the same ones after a kill, and nothing that was answered is asked twice."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fusion.evaluate.asking import AnswerLog, Ask, ask_all

ASKS = [Ask(f"q{number}", "x" * (number % 7 + 1), None) for number in range(23)]

ASKER = """
import os, sys
from pathlib import Path
from fusion.evaluate.asking import AnswerLog, Ask, ask_all
root, most = Path(sys.argv[1]), int(sys.argv[2])
asks = [Ask(f"q{number}", "x" * (number % 7 + 1), None) for number in range(23)]
batches = 0
def answer(batch):
    global batches
    batches += 1
    with (root / "asked.txt").open("a") as file:
        file.write("".join(f"{one.id}\\n" for one in batch))
    if batches > most:
        os.kill(os.getpid(), 9)
    return [one.id.upper() for one in batch]
found = ask_all(asks, answer, 4, "test", AnswerLog(root / "logs" / "a.jsonl"))
assert found == {one.id: one.id.upper() for one in asks}
"""


def test_batches_are_of_similar_length_and_whole() -> None:
    seen: list[list[str]] = []

    def answer(batch: Sequence[Ask]) -> list[str]:
        seen.append([ask.id for ask in batch])
        return [ask.id.upper() for ask in batch]

    assert ask_all(ASKS, answer, 4, "test") == {ask.id: ask.id.upper() for ask in ASKS}
    assert [len(batch) for batch in seen] == [4, 4, 4, 4, 4, 3]
    length = {ask.id: len(ask.text) for ask in ASKS}
    order = [length[name] for batch in seen for name in batch]
    assert order == sorted(order)


def test_an_answer_too_few_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ask_all(ASKS, lambda batch: ["one"], 4, "test")


def test_after_kills_nothing_that_was_answered_is_asked_again(tmp_path: Path) -> None:
    """Each start answers a batch more than its kill allows; what was answered before is not asked."""
    for most in (2, 1, 0, 10):
        done = subprocess.run([sys.executable, "-c", ASKER, str(tmp_path), str(most)], capture_output=True, text=True)
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
    assert done.returncode == 0
    asked = (tmp_path / "asked.txt").read_text().split()
    killed_in = 3 * 4  # the batch in which each kill came had no answer, and is asked again
    assert len(asked) == len(ASKS) + killed_in


def test_a_torn_line_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "a.jsonl"
    AnswerLog(path).add({"q0": "a"})
    with path.open("a") as file:
        file.write('{"q1": "b", "q2"')
    again = AnswerLog(path)
    assert again.answers == {"q0": "a"}
    again.add({"q1": "\u2028 line"})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"q0": "a"}, {"q1": "\u2028 line"}]
    assert AnswerLog(path).answers == {"q0": "a", "q1": "\u2028 line"}
