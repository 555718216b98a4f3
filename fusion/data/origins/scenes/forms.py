"""The forms in which a picture is asked about: captions, short answers, yes or no, a choice, a conversation of all."""

import random
from collections.abc import Callable

from fusion.data.origins.scenes.picture import Fact, Picture

Turn = tuple[str, str]
_SHORT = ("what is this?", "give a short caption.", "what does the picture show?")
_LONG = ("describe the picture in detail.", "what can you say about this picture?", "describe all that you see.")
_LETTERS = "abcd"


def ask(fact: Fact, kind: str, generator: random.Random) -> Turn:
    """Question and answer about `fact`, as an open question, to be answered by yes or no, or with a choice given."""
    if kind == "open":
        return fact.question, fact.answer
    others = [option for option in fact.options if option != fact.answer]
    if kind == "yes_no":
        # A coin decides, so that no question is answered by yes more often than by no.
        return (
            (fact.ask_about(fact.answer), "yes")
            if generator.random() < 0.5
            else (fact.ask_about(generator.choice(others)), "no")
        )
    wrong = generator.sample(others, min(2, len(others)))
    shown = generator.sample([fact.answer, *wrong], len(wrong) + 1)
    if generator.random() < 0.75:
        if len(fact.options) == 2:
            return fact.question, fact.answer
        return f"{fact.question} choose {', '.join(shown[:-1])} or {shown[-1]}.", fact.answer
    lettered = " ".join(f"{letter}) {option}" for letter, option in zip(_LETTERS, shown, strict=False))
    return f"{fact.question} {lettered}", _LETTERS[shown.index(fact.answer)]


def _topics(picture: Picture, count: int, generator: random.Random) -> list[Fact]:
    """At most `count` facts of different topics: none of them gives another away."""
    chosen: dict[str, Fact] = {}
    for fact in generator.sample(picture.facts, len(picture.facts)):
        chosen.setdefault(fact.topic, fact)
    return list(chosen.values())[:count]


def _questions(kind: str) -> Callable[[Picture, int, random.Random], list[Turn]]:
    def turns(picture: Picture, count: int, generator: random.Random) -> list[Turn]:
        return [ask(fact, kind, generator) for fact in _topics(picture, count, generator)]

    return turns


def _conversation(picture: Picture, count: int, generator: random.Random) -> list[Turn]:
    kinds = ("open", "open", "yes_no", "choice")
    return [ask(fact, generator.choice(kinds), generator) for fact in _topics(picture, count, generator)]


def _short_caption(picture: Picture, count: int, generator: random.Random) -> list[Turn]:
    return [(generator.choice(_SHORT), picture.short)]


def _long_caption(picture: Picture, count: int, generator: random.Random) -> list[Turn]:
    return [(generator.choice(_LONG), picture.long)]


FORMS: dict[str, Callable[[Picture, int, random.Random], list[Turn]]] = {
    "short_caption": _short_caption,
    "long_caption": _long_caption,
    "short_answer": _questions("open"),
    "yes_no": _questions("yes_no"),
    "choice": _questions("choice"),
    "conversation": _conversation,
}
