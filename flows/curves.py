"""A curve as a picture: points and a running mean, drawn with Pillow."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SIZE = (760, 380)
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 36, 40
POINTS, MEAN, AXIS, GRID = "#9db8d9", "#1f4e8c", "#444444", "#e4e4e4"


def draw_curve(points: Sequence[tuple[float, float]], title: str) -> Image.Image:
    """The points (step, value) in light blue and their mean over a twentieth of the run in dark blue.

    Values that are no finite numbers are left out; raises `ValueError` when nothing is left.
    """
    kept = [(x, y) for x, y in points if math.isfinite(y)]
    if not kept:
        raise ValueError("no finite value to draw")
    image = Image.new("RGB", SIZE, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    low, high = min(y for _, y in kept), max(y for _, y in kept)
    first, last = kept[0][0], max(kept[-1][0], kept[0][0] + 1)
    marks = _round_marks(low, high)
    low, high = min(low, marks[0]), max(high, marks[-1], low + 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - first) / (last - first) * (SIZE[0] - LEFT - RIGHT)
        return across, SIZE[1] - BOTTOM - (y - low) / (high - low) * (SIZE[1] - TOP - BOTTOM)

    for mark in marks:
        _, y = place(first, mark)
        draw.line((LEFT, y, SIZE[0] - RIGHT, y), fill=GRID)
        draw.text((LEFT - 8, y), f"{mark:g}", fill=AXIS, font=font, anchor="rm")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        step = round(first + share * (last - first))
        x, _ = place(step, low)
        draw.text((x, SIZE[1] - BOTTOM + 8), f"{step:,}", fill=AXIS, font=font, anchor="ra" if share == 1 else "ma")
    draw.line((LEFT, TOP, LEFT, SIZE[1] - BOTTOM, SIZE[0] - RIGHT, SIZE[1] - BOTTOM), fill=AXIS)
    draw.text((LEFT, 10), title, fill=AXIS, font=font)
    draw.text((SIZE[0] - RIGHT, 10), "step", fill=AXIS, font=font, anchor="ra")
    if len(kept) > 1:
        draw.line([place(x, y) for x, y in kept], fill=POINTS)
        draw.line([place(x, y) for x, y in _mean(kept)], fill=MEAN, width=3, joint="curve")
    return image


def _mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    width = max(1, len(points) // 20)
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    return [
        (x, (sums[at + 1] - sums[max(0, at + 1 - width)]) / (at + 1 - max(0, at + 1 - width)))
        for at, (x, _) in enumerate(points)
    ]


def _round_marks(low: float, high: float) -> list[float]:
    """Four to nine round numbers around low and high."""
    span = max(high - low, abs(high) * 1e-6, 1e-9)
    unit = 10.0 ** math.floor(math.log10(span / 4))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 7)
    start = math.floor(low / step)
    return [round(number * step, 12) for number in range(start, math.ceil(high / step) + 1)]
