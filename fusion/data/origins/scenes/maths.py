"""Pictures of simple sums: written, or as two groups of dots."""

import random

from PIL import ImageDraw

from fusion.data.origins.scenes.picture import (
    COLOURS,
    SIZE,
    Fact,
    Picture,
    background,
    colours_on,
    draw_shape,
    draw_text,
    shade,
)

_DIGITS = tuple("0123456789")
_TOTALS = tuple("2345678")


def maths(generator: random.Random) -> Picture:
    """A sum or difference of two digits, or dots to add; every result is as likely as any other."""
    ground, image = background(generator)
    colour = colours_on(ground, generator, 1)[0]
    fill = shade(COLOURS[colour], generator)
    if generator.random() < 0.3:
        total = generator.randint(2, 8)
        left = generator.randint(max(1, total - 4), min(4, total - 1))
        line = (110, 110, 110) if ground != "gray" else (60, 60, 60)
        ImageDraw.Draw(image).rectangle((31, 4, 32, SIZE - 5), fill=line)
        for number, middle in ((left, 16), (total - left, 48)):
            cells = generator.sample([(x, y) for x in (middle - 7, middle + 7) for y in (17, 47)], number)
            for cell in cells:
                draw_shape(image, "circle", cell, 12, fill)
        facts = [
            Fact("total", "how many dots are there in all?", str(total), _TOTALS, "is the number of all dots {}?"),
            Fact(
                "left",
                "how many dots are on the left?",
                str(left),
                tuple("1234"),
                "is the number of dots on the left {}?",
            ),
        ]
        right = total - left
        short = f"{left} dots and {right} dots."
        return Picture(
            image,
            short,
            f"there are {left} dots on the left and {right} on the right. in all there are {total}.",
            facts,
        )
    result = generator.randint(0, 9)
    if generator.random() < 0.5:
        first = generator.randint(0, result)
        second, sign, name = result - first, "+", "plus"
    else:
        first = generator.randint(result, 9)
        second, sign, name = first - result, "-", "minus"
    draw_text(image, f"{first}{sign}{second}", (32, 32 + generator.randint(-10, 10)), 3, fill)
    facts = [
        Fact("result", "what is the result?", str(result), _DIGITS, "is the result {}?"),
        Fact("first", "what is the first number?", str(first), _DIGITS, "is the first number {}?"),
        Fact("sign", "is it plus or minus?", name, ("plus", "minus"), "is it {}?"),
    ]
    return Picture(
        image, f"{first} {name} {second}.", f"the picture shows {first} {name} {second}. the result is {result}.", facts
    )
