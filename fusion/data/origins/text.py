"""Conversations without a picture, from small grammars: plain language, short Python programs, arithmetic in words."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from fusion.data.ingest.origin import EmbeddedOrigin, Record

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("long", "short"), ("up", "down"), ("left", "right"), ("day", "night"),
    ("old", "new"), ("fast", "slow"), ("wet", "dry"), ("open", "closed"), ("above", "below"), ("black", "white"),
)  # fmt: skip
_KINDS = {
    "colour": ("red", "green", "blue", "yellow", "black", "white", "brown"),
    "shape": ("circle", "square", "triangle", "star", "cross"),
    "animal": ("cat", "dog", "cow", "pig", "fox", "hen"),
    "number": _NUMBERS,
}
_PLACES = (("fish", "the sea"), ("boat", "the sea"), ("cow", "the field"), ("tree", "the field"), ("star", "the sky"))
_ORDER = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

Turn = tuple[str, str]


class Text(EmbeddedOrigin):
    """`topic`, number of `conversations`, most `turns` in one, `seed`."""

    kind: ClassVar[str] = "text"
    topic: Literal["language", "code", "arithmetic"]
    conversations: int = Field(ge=1)
    turns: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0)

    def records(self, root: Path) -> Iterator[Record]:
        make = _TOPICS[self.topic]
        seen: set[tuple[Turn, ...]] = set()
        for number in range(self.conversations):
            generator = random.Random(f"{self.seed}:{self.topic}:{number}")
            # A repeated conversation would only be dropped as a duplicate; a few more tries find a new one.
            for _ in range(50):
                turns = _distinct(make, generator, generator.randint(1, self.turns))
                if turns not in seen:
                    break
            seen.add(turns)
            messages = [(role, text) for turn in turns for role, text in zip(("human", "gpt"), turn, strict=True)]
            yield Record(
                id=f"{self.topic}-{number:05d}",
                image=None,
                picture=None,
                conversations=[{"from": role, "value": text} for role, text in messages],
            )


def _distinct(make: Callable[[random.Random], Turn], generator: random.Random, count: int) -> tuple[Turn, ...]:
    turns: dict[str, str] = {}
    while len(turns) < count:
        question, answer = make(generator)
        turns.setdefault(question, answer)
    return tuple(turns.items())


def _language(generator: random.Random) -> Turn:
    form = generator.randrange(6)
    if form == 0:
        pair = generator.choice(_OPPOSITES)
        first, second = pair if generator.random() < 0.5 else pair[::-1]
        return f"what is the opposite of {first}?", second
    if form == 1:
        kind = generator.choice(sorted(_KINDS))
        return (
            f"what kind of word is {generator.choice(_KINDS[kind])}?",
            f"a {kind}" if kind != "animal" else "an animal",
        )
    if form == 2:
        kind, other = generator.sample(sorted(_KINDS), 2)
        word = generator.choice(_KINDS[generator.choice((kind, other))])
        article = "an" if kind == "animal" else "a"
        return f"is {word} {article} {kind}?", "yes" if word in _KINDS[kind] else "no"
    if form == 3:
        thing, place = generator.choice(_PLACES)
        return f"where do you find a {thing}?", f"in {place}"
    if form == 4:
        day = generator.randrange(7)
        return f"which day comes after {_ORDER[day]}?", _ORDER[(day + 1) % 7]
    word = generator.choice(_KINDS[generator.choice(sorted(_KINDS))])
    return f"what is the first letter of {word}?", word[0]


def _code(generator: random.Random) -> Turn:
    form = generator.randrange(5)
    a, b = generator.randrange(1, 10), generator.randrange(1, 10)
    if form == 0:
        return f"what does this print?\nprint({a} + {b})", str(a + b)
    if form == 1:
        word = generator.choice(_KINDS["animal"])
        return f'what does this print?\nprint(len("{word}"))', str(len(word))
    if form == 2:
        return f"what does this print?\nx = {a}\nx = x + {b}\nprint(x)", str(a + b)
    if form == 3:
        return f"what does this print?\nprint({a} > {b})", str(a > b)
    name = generator.choice(("a", "b", "n", "x", "y"))
    return f"write python that prints {name} {a} times.", f"for _ in range({a}):\n    print({name})"


def _arithmetic(generator: random.Random) -> Turn:
    form = generator.randrange(4)
    a, b = sorted((generator.randrange(0, 6), generator.randrange(0, 6)))
    if form == 0:
        return f"what is {_NUMBERS[a]} plus {_NUMBERS[b]}?", _NUMBERS[a + b]
    if form == 1:
        return f"what is {_NUMBERS[b]} minus {_NUMBERS[a]}?", _NUMBERS[b - a]
    if form == 2:
        words = [_NUMBERS[a], _NUMBERS[b + 4]]
        generator.shuffle(words)
        return f"which is more, {words[0]} or {words[1]}?", max(words, key=_NUMBERS.index)
    thing = generator.choice(("apple", "fish", "star", "hen"))
    plural = thing if thing == "fish" else f"{thing}s"
    return f"you have {_NUMBERS[b]} {plural} and give away {_NUMBERS[a]}. how many are left?", _NUMBERS[b - a]


_TOPICS: dict[str, Callable[[random.Random], Turn]] = {
    "language": _language,
    "code": _code,
    "arithmetic": _arithmetic,
}
