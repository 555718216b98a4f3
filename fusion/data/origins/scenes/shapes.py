"""Pictures of plain shapes: their colours, their number, where one is seen from the other."""

import random

from fusion.data.origins.scenes.picture import (
    COLOURS,
    SHAPES,
    Fact,
    Picture,
    article,
    background,
    colours_on,
    draw_shape,
    shade,
)

_COLOURS = tuple(COLOURS)
_NUMBERS = ("1", "2", "3", "4", "5")
_RELATIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_A = {shape: article(shape) for shape in SHAPES}
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def _colour_fact(thing: str, colour: str) -> Fact:
    return Fact(f"colour of {thing}", f"what colour is the {thing}?", colour, _COLOURS, f"is the {thing} {{}}?")


def colour(generator: random.Random) -> Picture:
    """One or two large shapes of different form and colour."""
    ground, image = background(generator)
    shapes = generator.sample(SHAPES, generator.choice((1, 2, 2)))
    colours = colours_on(ground, generator, len(shapes))
    sides = generator.sample((17, 47), 2) if len(shapes) == 2 else [generator.randint(20, 44)]
    facts = []
    for shape, name, x in zip(shapes, colours, sides, strict=True):
        size = generator.randint(24, 29)
        centre = (x + generator.randint(-2, 2), generator.randint(18, 46))
        draw_shape(image, shape, centre, size, shade(COLOURS[name], generator))
        facts.append(_colour_fact(shape, name))
        facts.append(
            Fact(f"colour of {shape}", f"which shape is {name}?", shape, SHAPES, f"is the {name} shape {{}}?", _A)
        )
    named = " and ".join(article(f"{name} {shape}") for shape, name in zip(shapes, colours, strict=True))
    told = " ".join(f"the {shape} is {name}." for shape, name in zip(shapes, colours, strict=True))
    return Picture(image, f"{named}.", f"the picture shows {named}. {told} the background is {ground}.", facts)


def count(generator: random.Random) -> Picture:
    """One to five shapes of one form and colour, often with some of another among them."""
    ground, image = background(generator)
    shapes = generator.sample(SHAPES, 2)
    colours = colours_on(ground, generator, 2)
    numbers = [generator.randint(1, 5), generator.choice((0, 0, 1, 2, 3, 4))]
    cells = generator.sample([(x, y) for x in (11, 32, 53) for y in (11, 32, 53)], sum(numbers))
    for place, cell in enumerate(cells):
        which = 0 if place < numbers[0] else 1
        centre = (cell[0] + generator.randint(-1, 1), cell[1] + generator.randint(-1, 1))
        draw_shape(image, shapes[which], centre, generator.randint(15, 17), shade(COLOURS[colours[which]], generator))
    facts = [_count_fact(_plural(shapes[0]), numbers[0])]
    parts = [_several(numbers[0], colours[0], shapes[0])]
    told = [f"the number of {_plural(shapes[0])} is {numbers[0]}."]
    facts.append(_colours_fact(shapes[0], colours[0]))
    if numbers[1]:
        facts.append(_count_fact(_plural(shapes[1]), numbers[1]))
        facts.append(_colours_fact(shapes[1], colours[1]))
        parts.append(_several(numbers[1], colours[1], shapes[1]))
        told.append(f"the number of {_plural(shapes[1])} is {numbers[1]}.")
        if numbers[0] != numbers[1]:
            facts.append(_more_fact(shapes, numbers))
    named = " and ".join(parts)
    return Picture(
        image, f"{named}.", f"the picture shows {named}. {' '.join(told)} the background is {ground}.", facts
    )


def _plural(shape: str) -> str:
    return "crosses" if shape == "cross" else f"{shape}s"


def _several(number: int, colour: str, shape: str) -> str:
    return f"{number} {colour} {_plural(shape) if number > 1 else shape}"


def _count_fact(things: str, number: int) -> Fact:
    return Fact("number", f"how many {things} are there?", str(number), _NUMBERS, f"is the number of {things} {{}}?")


def _colours_fact(shape: str, colour: str) -> Fact:
    things = _plural(shape)
    return Fact(f"colour of {shape}", f"what colour are the {things}?", colour, _COLOURS, f"are the {things} {{}}?")


def _more_fact(shapes: list[str], numbers: list[int]) -> Fact:
    first, second = sorted(_plural(shape) for shape in shapes)
    more = _plural(shapes[0] if numbers[0] > numbers[1] else shapes[1])
    other = second if more == first else first
    return Fact("number", f"are there more {first} or {second}?", more, (more, other), "are there more {}?")


def spatial(generator: random.Random) -> Picture:
    """Two shapes, one beside or above the other."""
    ground, image = background(generator)
    first, second = generator.sample(SHAPES, 2)
    colours = colours_on(ground, generator, 2)
    relation = generator.choice(sorted(_RELATIONS))
    near, far, shift = generator.randint(14, 18), generator.randint(46, 50), generator.randint(24, 40)
    spots = [(near, shift), (far, shift)] if relation in ("left", "right") else [(shift, near), (shift, far)]
    if relation in ("right", "below"):
        spots.reverse()
    for shape, name, spot in zip((first, second), colours, spots, strict=True):
        centre = (spot[0] + generator.randint(-2, 2), spot[1] + generator.randint(-2, 2))
        draw_shape(image, shape, centre, generator.randint(21, 25), shade(COLOURS[name], generator))
    options = tuple(_RELATIONS)
    facts = []
    for one, other, where in ((first, second, relation), (second, first, _OPPOSITE[relation])):
        check = f"is the {one} {{}} the {other}?"
        facts.append(Fact("where", f"where is the {one} seen from the {other}?", where, options, check, _RELATIONS))
        others = tuple(shape for shape in SHAPES if shape != other)
        facts.append(
            Fact(
                "where",
                f"which shape is {_RELATIONS[where]} the {other}?",
                one,
                others,
                f"is {{}} {_RELATIONS[where]} the {other}?",
                _A,
            )
        )
    facts += [_colour_fact(shape, name) for shape, name in zip((first, second), colours, strict=True)]
    short = f"{article(first)} {_RELATIONS[relation]} {article(second)}."
    long = (
        f"the picture shows {article(f'{colours[0]} {first}')} and {article(f'{colours[1]} {second}')}. the {first} is "
        f"{_RELATIONS[relation]} the {second}. the {second} is {_RELATIONS[_OPPOSITE[relation]]} the {first}."
    )
    return Picture(image, short, long, facts)
