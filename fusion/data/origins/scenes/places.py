"""Pictures of places: ground and sky by day or night, one large thing, something in the sky."""

import random

from PIL import Image, ImageDraw

from fusion.data.origins.scenes.picture import COLOURS, SIZE, Fact, Picture, article, draw_shape, shade

_GROUNDS = {
    "field": (70, 170, 60),
    "sea": (20, 80, 170),
    "desert": (225, 190, 110),
    "snow": (235, 240, 250),
    "road": (95, 95, 100),
}
_SKIES = {"day": (150, 205, 250), "night": (15, 15, 60)}
_IN_THE_SKY = {"day": ("sun", "cloud", "bird"), "night": ("moon", "star", "bird")}
_THINGS = ("house", "tree", "boat", "car", "tent")
_THING_COLOURS = ("red", "yellow", "purple", "orange", "black")
_WHERE = {
    "field": "in a field",
    "sea": "on the sea",
    "desert": "in the desert",
    "snow": "in the snow",
    "road": "on a road",
}


def place(generator: random.Random) -> Picture:
    """A place with one thing in one colour; every combination is as likely as any other."""
    where, time, thing = generator.choice(sorted(_GROUNDS)), generator.choice(sorted(_SKIES)), generator.choice(_THINGS)
    colour, above = generator.choice(_THING_COLOURS), generator.choice(_IN_THE_SKY[time])
    image = Image.new("RGB", (SIZE, SIZE), shade(_SKIES[time], generator))
    horizon = generator.randint(34, 39)
    ImageDraw.Draw(image).rectangle((0, horizon, SIZE, SIZE), fill=shade(_GROUNDS[where], generator))
    side = generator.choice((-1, 1))
    _draw_above(image, above, (32 - side * 18, 12 + generator.randint(-1, 2)))
    _draw_thing(
        image,
        thing,
        (32 + side * generator.randint(2, 10), generator.randint(43, 45)),
        shade(COLOURS[colour], generator),
    )
    facts = [
        Fact("place", "what place is this?", where, tuple(sorted(_GROUNDS)), "is this {}?", _PLACES),
        Fact("time", "is it day or night?", time, ("day", "night"), "is it {}?"),
        Fact(
            "thing", "what thing is there?", thing, _THINGS, "is there {}?", {word: article(word) for word in _THINGS}
        ),
        Fact(f"colour of {thing}", f"what colour is the {thing}?", colour, _THING_COLOURS, f"is the {thing} {{}}?"),
        Fact(
            "time",
            "what is in the sky?",
            above,
            ("sun", "cloud", "bird", "moon", "star"),
            "is there {} in the sky?",
            _SKY,
        ),
    ]
    short = f"{article(f'{colour} {thing}')} {_WHERE[where]} by {time}."
    long = (
        f"the picture shows {article(thing)} {_WHERE[where]}. the {thing} is {colour}. it is {time}. "
        f"there is {_SKY[above]} in the sky."
    )
    return Picture(image, short, long, facts)


_PLACES = {"field": "a field", "sea": "the sea", "desert": "the desert", "snow": "snow", "road": "a road"}
_SKY = {"sun": "the sun", "cloud": "a cloud", "bird": "a bird", "moon": "the moon", "star": "a star"}


def _draw_above(image: Image.Image, name: str, centre: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(image)
    x, y = centre
    if name == "sun":
        draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=(255, 230, 50))
    elif name == "moon":
        sky = image.getpixel((0, 0))
        draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=(240, 240, 200))
        draw.ellipse((x - 3, y - 9, x + 11, y + 5), fill=sky)
    elif name == "star":
        draw_shape(image, "star", centre, 19, (255, 255, 180))
    elif name == "cloud":
        for shift in (-8, 0, 8):
            draw.ellipse((x + shift - 7, y - 5 - (shift == 0) * 3, x + shift + 7, y + 6), fill=(250, 250, 250))
    else:
        # Seen on the bright and on the dark sky.
        fill = (120, 70, 40)
        draw.polygon([(x - 12, y - 5), (x, y + 1), (x, y + 6)], fill=fill)
        draw.polygon([(x + 12, y - 5), (x, y + 1), (x, y + 6)], fill=fill)


def _draw_thing(image: Image.Image, name: str, centre: tuple[int, int], fill: tuple[int, int, int]) -> None:
    draw = ImageDraw.Draw(image)
    x, y = centre
    if name == "house":
        draw.rectangle((x - 12, y - 6, x + 12, y + 14), fill=fill)
        draw.polygon([(x - 16, y - 7), (x + 16, y - 7), (x, y - 20)], fill=fill)
        draw.rectangle((x - 4, y + 3, x + 3, y + 14), fill=(220, 220, 220))
    elif name == "tree":
        draw.rectangle((x - 3, y - 2, x + 2, y + 15), fill=(110, 65, 30))
        draw.ellipse((x - 14, y - 24, x + 14, y + 2), fill=fill)
    elif name == "boat":
        draw.polygon([(x - 20, y + 4), (x + 20, y + 4), (x + 12, y + 14), (x - 12, y + 14)], fill=fill)
        draw.polygon([(x + 1, y - 20), (x + 1, y + 1), (x + 15, y + 1)], fill=(245, 245, 245))
        draw.rectangle((x - 2, y - 20, x, y + 3), fill=(110, 65, 30))
    elif name == "car":
        draw.rectangle((x - 20, y - 2, x + 20, y + 9), fill=fill)
        draw.rectangle((x - 11, y - 11, x + 11, y - 2), fill=fill)
        for shift in (-12, 12):
            draw.ellipse((x + shift - 5, y + 5, x + shift + 5, y + 15), fill=(35, 35, 35))
    else:
        draw.polygon([(x - 19, y + 14), (x + 19, y + 14), (x, y - 16)], fill=fill)
        draw.polygon([(x - 5, y + 14), (x + 5, y + 14), (x, y + 1)], fill=(60, 45, 40))
