"""A picture with what is true of it, and the drawing that all categories share."""

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIZE = 64
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 25, 30),
    "green": (30, 160, 50),
    "blue": (30, 60, 215),
    "yellow": (250, 220, 20),
    "purple": (140, 40, 160),
    "orange": (250, 135, 20),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "black": (15, 15, 15),
    "gray": (150, 150, 150),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")


@dataclass(frozen=True, slots=True)
class Fact:
    """Something true of a picture, that can be asked in several ways.

    `question` is answered by `answer`, one of `options`; `check` with an option put in is answered yes or no.
    Facts of one `topic` give each other away and never stand in one conversation.
    """

    topic: str
    question: str
    answer: str
    options: tuple[str, ...]
    check: str
    phrases: dict[str, str] | None = None
    """How an option reads inside `check`, where not as it is."""

    def ask_about(self, option: str) -> str:
        """The yes/no question whether `option` is the answer."""
        return self.check.format((self.phrases or {}).get(option, option))


@dataclass(frozen=True, slots=True)
class Picture:
    """An image [SIZE, SIZE, RGB], a short and a long caption, and the facts to ask about."""

    image: Image.Image
    short: str
    long: str
    facts: list[Fact]


def article(word: str) -> str:
    """`word` with "a" or "an" before it."""
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def shade(colour: tuple[int, int, int], generator: random.Random) -> tuple[int, int, int]:
    """The colour, a little lighter or darker in each channel, still of its name."""
    red, green, blue = (max(0, min(255, value + generator.randint(-10, 10))) for value in colour)
    return red, green, blue


def background(generator: random.Random) -> tuple[str, Image.Image]:
    """A plain background by its name and image."""
    name = generator.choice(sorted(BACKGROUNDS))
    return name, Image.new("RGB", (SIZE, SIZE), shade(BACKGROUNDS[name], generator))


def colours_on(name: str, generator: random.Random, count: int) -> list[str]:
    """`count` different colour names that can be seen on the background `name`."""
    return generator.sample([colour for colour in COLOURS if colour != name], count)


def draw_shape(image: Image.Image, shape: str, centre: tuple[int, int], size: int, fill: tuple[int, int, int]) -> None:
    """Draws a shape of `size` pixels across, without smoothing, so that the pixels are the same everywhere."""
    draw = ImageDraw.Draw(image)
    x, y = centre
    left, top = x - size // 2, y - size // 2
    right, bottom = left + size - 1, top + size - 1
    if shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=fill)
    elif shape == "square":
        draw.rectangle((left, top, right, bottom), fill=fill)
    elif shape == "triangle":
        draw.polygon([(left, bottom), (right, bottom), (x, top)], fill=fill)
    elif shape == "cross":
        arm = size // 3
        draw.rectangle((left, top + arm, right, bottom - arm), fill=fill)
        draw.rectangle((left + arm, top, right - arm, bottom), fill=fill)
    else:
        # A four-pointed star: its thin waist sets it apart from the cross and the square at this size.
        waist = max(1, size // 7)
        points = [(x, top), (x + waist, y - waist), (right, y), (x + waist, y + waist)]
        points += [(x, bottom), (x - waist, y + waist), (left, y), (x - waist, y - waist)]
        draw.polygon(points, fill=fill)


def draw_text(image: Image.Image, word: str, centre: tuple[int, int], scale: int, fill: tuple[int, int, int]) -> None:
    """Draws `word` in Pillow's own bitmap font, every dot `scale` pixels wide."""
    font = ImageFont.load_default_imagefont()
    left, top, right, bottom = (round(value) for value in font.getbbox(word))
    mask = Image.new("1", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), word, fill=1, font=font)
    box = mask.getbbox()
    if box is None:
        raise ValueError(f"the font draws nothing for {word!r}")
    mask = mask.crop(box)
    mask = mask.resize((mask.width * scale, mask.height * scale), Image.Resampling.NEAREST)
    image.paste(fill, (centre[0] - mask.width // 2, centre[1] - mask.height // 2), mask)
