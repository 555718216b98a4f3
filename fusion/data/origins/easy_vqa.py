"""easy-VQA (MIT), a published visual question answering set that its Python package carries whole."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from fusion.data.ingest.origin import BenchmarkOrigin, EmbeddedOrigin, Question, Record

_COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


class EasyVqa(EmbeddedOrigin, BenchmarkOrigin):
    """`split`; `turns`: most questions in a conversation; `seed`: of their spread; `first`: that many pictures."""

    kind: ClassVar[str] = "easy_vqa"
    split: Literal["train", "test"]
    turns: int = Field(default=3, ge=1)
    seed: int = Field(default=0, ge=0)
    first: int | None = Field(default=None, ge=1)

    def records(self, root: Path) -> Iterator[Record]:
        files = self._files()
        for picture, questions in self._pictures():
            generator = random.Random(f"{self.seed}:{picture}")
            conversations = spread_questions(questions, self.turns, generator)
            for number, conversation in enumerate(conversations):
                messages = [("human", "gpt")[side] for _ in conversation for side in (0, 1)]
                texts = [text for pair in conversation for text in pair]
                texts[0] = f"<image>\n{texts[0]}"
                yield Record(
                    id=f"{picture}-{number}",
                    image=f"{self.split}/{picture}.png",
                    picture=files[picture].read_bytes() if number == 0 else None,
                    conversations=[{"from": role, "value": text} for role, text in zip(messages, texts, strict=True)],
                )

    def questions(self, root: Path) -> Iterator[Question]:
        files = self._files()
        for picture, questions in self._pictures():
            for number, (question, answer) in enumerate(questions):
                yield Question(
                    id=f"{picture}-{number}",
                    image=f"{self.split}/{picture}.png",
                    picture=files[picture].read_bytes() if number == 0 else None,
                    question=question,
                    answer=answer,
                    kind="yes_no" if answer in ("yes", "no") else "open",
                    category=_category(answer),
                )

    def _pictures(self) -> Iterator[tuple[int, list[tuple[str, str]]]]:
        import easy_vqa

        read = easy_vqa.get_train_questions if self.split == "train" else easy_vqa.get_test_questions
        by_picture: dict[int, list[tuple[str, str]]] = {}
        for question, answer, picture in zip(*read(), strict=True):
            by_picture.setdefault(picture, []).append((question, answer))
        yield from sorted(by_picture.items())[: self.first]

    def _files(self) -> dict[int, Path]:
        import easy_vqa

        paths = easy_vqa.get_train_image_paths if self.split == "train" else easy_vqa.get_test_image_paths
        return {picture: Path(path) for picture, path in paths().items()}


def _category(answer: str) -> str:
    if answer in ("yes", "no"):
        return "presence"
    return "colour" if answer in _COLOURS else "shape"


def _fact(question: str, answer: str) -> str:
    """What a question is about: the open ones of colour and of shape, and a yes/no question by what it asks for."""
    if answer not in ("yes", "no"):
        return _category(answer)
    return "colour" if any(colour in question.split() for colour in _COLOURS) else "shape"


def spread_questions(
    questions: list[tuple[str, str]], turns: int, generator: random.Random
) -> list[list[tuple[str, str]]]:
    """Deals the questions of a picture to conversations of at most `turns`, each question once.

    A question whose answer an earlier turn gives away teaches copying, not looking: questions about the same fact go to
    different conversations where there is room, those that reveal most (the open ones) first.
    """
    shuffled = list(questions)
    generator.shuffle(shuffled)
    shuffled.sort(key=lambda item: item[1] in ("yes", "no"))
    dealt: list[list[tuple[str, str]]] = [[] for _ in range(-(-len(shuffled) // turns))]
    for question, answer in shuffled:
        fact = _fact(question, answer)
        free = [hand for hand in dealt if len(hand) < turns]
        told = [sum((_fact(*item) == fact) * (1 if item[1] in ("yes", "no") else 3) for item in hand) for hand in free]
        best = min(range(len(free)), key=lambda index: (told[index], len(free[index])))
        free[best].append((question, answer))
    for hand in dealt:
        generator.shuffle(hand)
    return dealt
