"""Line charts as a picture: panels in a grid, drawn with Pillow, which the project has anyway.

Lines are drawn at a multiple of the size and reduced, so that they are smooth. The same numbers give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from fusion.publish.charts import number, thin, ticks

PALETTE = (
    "#1b6ca8", "#d1495b", "#3a8f5c", "#e09f3e", "#7d5ba6", "#2a9d9d", "#8c564b", "#c65fa0", "#6b7a2f", "#5b6770",
)  # fmt: skip
"""Colours that can be told apart, also by most who are colour-blind, as far as ten can."""
FAINT, GRID, INK, QUIET = "#a8c3d8", "#e3e6e8", "#24292e", "#626a72"
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 34, 44
LEGEND = 200
_SCALE = 3
POINTS = 2000
"""Most points of a line: about as many as can be told apart."""


@dataclass(frozen=True)
class Curve:
    """One line; points that are not finite leave a gap. `width` in pixels."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    width: float = 2.0


@dataclass(frozen=True)
class Panel:
    """A chart; its axes begin at zero. `x_top`: what its x axis reaches at least."""

    title: str
    curves: Sequence[Curve]
    x_label: str
    height: int
    x_top: float = 0.0


def draw(title: str, columns: Sequence[Sequence[Panel]], plot_width: int) -> Image.Image:
    """Columns of panels side by side under a title; names of the curves stand on the right of each panel."""
    width = LEFT + plot_width + RIGHT + LEGEND
    height = 46 + max(sum(panel.height for panel in column) for column in columns)
    canvas = _Canvas(Image.new("RGB", (width * len(columns) * _SCALE, height * _SCALE), "white"))
    canvas.text((LEFT, 16), title, 20, INK, "lt")
    for place, column in enumerate(columns):
        top = 46
        for panel in column:
            _panel(canvas, panel, place * width, top, plot_width)
            top += panel.height
    return canvas.image.resize((width * len(columns), height), Image.Resampling.LANCZOS)


class _Canvas:
    """Draws in pixels of the finished picture."""

    def __init__(self, image: Image.Image) -> None:
        self.image, self._draw = image, ImageDraw.Draw(image)

    def text(self, at: tuple[float, float], text: str, size: int, colour: str, anchor: str) -> None:
        font = ImageFont.load_default(size * _SCALE)
        self._draw.text((at[0] * _SCALE, at[1] * _SCALE), text, fill=colour, font=font, anchor=anchor)

    def wide(self, text: str, size: int) -> float:
        """Width of a text."""
        return ImageFont.load_default(size * _SCALE).getlength(text) / _SCALE

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        if len(scaled) == 1:
            (x, y), r = scaled[0], width * _SCALE
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        self._draw.line(scaled, fill=colour, width=max(1, round(width * _SCALE)), joint="curve")


def _panel(canvas: _Canvas, panel: Panel, left: float, top: float, plot_width: int) -> None:
    x_left, x_right = left + LEFT, left + LEFT + plot_width
    y_top, y_base = top + TOP, top + panel.height - BOTTOM
    heights = [y for curve in panel.curves for y in curve.y if math.isfinite(y)]
    y_ticks = ticks(max(heights, default=1.0) or 1.0, 4 if panel.height > 170 else 2)
    x_most = max([x for curve in panel.curves for x in curve.x] + [panel.x_top, 1e-9])

    def at(x: float, y: float) -> tuple[float, float]:
        return x_left + plot_width * x / x_most, y_base - (y_base - y_top) * y / y_ticks[-1]

    canvas.text((x_left, top + 14), panel.title, 15, INK, "lt")
    for tick in y_ticks:
        height = at(0, tick)[1]
        canvas.line([(x_left, height), (x_right, height)], GRID, 1)
        canvas.text((x_left - 8, height), number(tick), 12, QUIET, "rm")
    for tick in ticks(x_most, 5):
        if tick <= x_most:
            canvas.text((at(tick, 0)[0], y_base + 7), number(tick), 12, QUIET, "mt")
    canvas.text(((x_left + x_right) / 2, y_base + 23), panel.x_label, 12, QUIET, "mt")
    for curve in panel.curves:
        for points in _unbroken(thin(curve.x, curve.y, POINTS)):
            canvas.line([at(*point) for point in points], curve.colour, curve.width)
    _legend(canvas, panel.curves, x_right + 16, y_top)


def _legend(canvas: _Canvas, curves: Sequence[Curve], left: float, top: float) -> None:
    for place, curve in enumerate(curves):
        middle, name = top + 9 + 18 * place, curve.name
        while canvas.wide(name, 12) > LEGEND - 50 and len(name) > 4:
            name = name.removesuffix("…")[:-1] + "…"
        canvas.line([(left, middle), (left + 18, middle)], curve.colour, max(curve.width, 2))
        canvas.text((left + 26, middle), name, 12, INK, "lm")


def _unbroken(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The stretches between values that are not finite."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            stretches[-1].append((x, y))
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]
