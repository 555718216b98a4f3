"""Questions asked in batches, with a log on disk: after a kill nothing that was answered is asked again."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

FOLDER = Path("scratch/evaluate")
"""Logs of answers, by variant, while an evaluation is not finished."""


@dataclass(frozen=True)
class Ask:
    """One question for a model; `picture` gives its bytes when its turn comes, None for text alone."""

    id: str
    text: str
    picture: Callable[[], bytes] | None


MAX_NEW_TOKENS = 16
"""Of an answer to an embedded benchmark."""


class System(Protocol):
    """Who answers."""

    name: str

    def ask(
        self, asks: Sequence[Ask], max_new_tokens: int, label: str, content: object, logs: Path | None = None
    ) -> dict[str, str]:
        """Answers by id; `content` is what they depend on besides texts and the system itself.

        With a folder for `logs`, what was answered before a kill is not asked again.
        """

    def render(self, question: str, has_picture: bool) -> str:
        """The prompt in the system's template."""


class AnswerLog:
    """Answers that were given, one JSON line a batch. A line counts when it has its end: a torn last one is cut off.

    The name of `path` must hold everything that answers depend on: weights, questions, settings. Whoever has written
    what the answers are for removes it; until then the next start reads it.
    """

    def __init__(self, path: Path) -> None:
        """Reads what is there."""
        self._path = path
        self.answers: dict[str, str] = {}
        if not path.is_file():
            return
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            self.answers |= json.loads(line)
        if whole < len(data):
            with path.open("r+b") as file:
                file.truncate(whole)

    def add(self, answers: Mapping[str, str]) -> None:
        """Writes the answers of a batch; they are on the disk when this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(answers, ensure_ascii=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.answers |= answers


def ask_all(
    asks: Sequence[Ask],
    answer_batch: Callable[[Sequence[Ask]], Sequence[str]],
    batch_size: int,
    label: str,
    log: AnswerLog | None = None,
) -> dict[str, str]:
    """Answers by id. Questions of similar length go together; the batches are the same after a kill as without one."""
    order = sorted(range(len(asks)), key=lambda index: len(asks[index].text))
    found = dict(log.answers) if log else {}
    with tqdm(total=len(order), desc=label, unit="question", ascii=True, ncols=110, mininterval=10.0) as bar:
        for start in range(0, len(order), batch_size):
            batch = [asks[index] for index in order[start : start + batch_size]]
            if not all(ask.id in found for ask in batch):
                answers = dict(zip((ask.id for ask in batch), answer_batch(batch), strict=True))
                if log:
                    log.add(answers)
                found |= answers
            bar.update(len(batch))
    return found
