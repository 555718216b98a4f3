"""Pictures of a short word or a number, written large."""

import random

from fusion.data.origins.scenes.picture import (
    COLOURS,
    Fact,
    Picture,
    background,
    colours_on,
    draw_text,
    shade,
)

WORDS = ("cat", "dog", "sun", "bus", "map", "pen", "cup", "hat", "box", "key", "bed", "fox", "owl", "tea", "ice", "jar")
_DIGITS = tuple("0123456789")


def text(generator: random.Random) -> Picture:
    """A word of three letters, or a single digit."""
    ground, image = background(generator)
    colour = colours_on(ground, generator, 1)[0]
    fill = shade(COLOURS[colour], generator)
    shift = (32 + generator.randint(-3, 3), 32 + generator.randint(-10, 10))
    colours = tuple(COLOURS)
    if generator.random() < 0.7:
        word = generator.choice(WORDS)
        draw_text(image, word, shift, 3, fill)
        letter = Fact("word", "what is the first letter?", word[0], tuple("abcdfhijkmopst"), "is the first letter {}?")
        facts = [
            Fact("word", "what word is written?", word, WORDS, "is the word {} written?"),
            Fact("colour", "what colour is the word?", colour, colours, "is the word {}?"),
            letter,
        ]
        return Picture(image, f"the word {word} in {colour}.", _long("word", word, colour, ground), facts)
    digit = generator.choice(_DIGITS)
    draw_text(image, digit, (shift[0] + generator.randint(-8, 8), 32 + generator.randint(-4, 4)), 5, fill)
    facts = [
        Fact("digit", "what digit is written?", digit, _DIGITS, "is the digit {} written?"),
        Fact("colour", "what colour is the digit?", colour, colours, "is the digit {}?"),
    ]
    return Picture(image, f"the digit {digit} in {colour}.", _long("digit", digit, colour, ground), facts)


def _long(kind: str, content: str, colour: str, ground: str) -> str:
    return f"the picture shows the {kind} {content}. the {kind} is {colour}. the background is {ground}."
