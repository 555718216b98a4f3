"""Line charts as SVG text, drawn by hand: no library, no script, colours from the page's style sheet."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 236
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 42
POINTS = 220
"""Most points a line is drawn with: more cannot be told apart on a page."""


@dataclass(frozen=True)
class Line:
    """One line: `kind` is its class in the style sheet, `values` its heights at the chart's x positions."""

    name: str
    kind: str
    values: Sequence[float]


def line_chart(label: str, x: Sequence[float], lines: Sequence[Line], x_label: str, y_label: str) -> Markup:
    """A chart with labelled axes that begin at zero. Values that are not finite leave a gap."""
    heights = [value for line in lines for value in line.values if math.isfinite(value)]
    y_ticks = ticks(max(heights, default=1.0) or 1.0, 4)
    x_ticks = ticks(max(x, default=1.0) or 1.0, 4)
    x_top, y_top = max(max(x, default=1.0), 1e-9), y_ticks[-1] or 1.0

    def at(px: float, py: float) -> tuple[float, float]:
        inside = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
        return LEFT + inside[0] * px / x_top, HEIGHT - BOTTOM - inside[1] * min(py, y_top) / y_top

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in y_ticks:
        _, height = at(0, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 7}" y="{height + 3.6:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    for tick in (tick for tick in x_ticks if tick <= x_top):
        place, base = at(tick, 0)
        anchor = "end" if place > WIDTH - RIGHT - 12 else "middle"
        parts.append(
            f'<text class="tick" x="{place:.1f}" y="{base + 16:.1f}" text-anchor="{anchor}">{number(tick)}</text>'
        )
    across, down = (LEFT + WIDTH - RIGHT) / 2, TOP + (HEIGHT - TOP - BOTTOM) / 2
    for transform, text in (
        (f"translate({across} {HEIGHT - 6})", x_label),
        (f"translate(11 {down}) rotate(-90)", y_label),
    ):
        parts.append(f'<text class="axis" transform="{transform}" text-anchor="middle">{escape(text)}</text>')
    for line in lines:
        points = [(px, py) for px, py in thin(x, line.values) if math.isfinite(py)]
        path = " ".join(
            f"{'ML'[index > 0]}{px:.1f} {py:.1f}" for index, (px, py) in enumerate(at(*point) for point in points)
        )
        parts.append(f'<path class="line {escape(line.kind)}" d="{path}"><title>{escape(line.name)}</title></path>')
    return Markup("".join([*parts, "</svg>"]))


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The running mean over the last `window` values (fewer at the beginning)."""
    smoothed, total = [], 0.0
    for index, value in enumerate(values):
        total += value - (values[index - window] if index >= window else 0.0)
        smoothed.append(total / min(index + 1, window))
    return smoothed


def ticks(top: float, count: int) -> list[float]:
    """Round numbers from zero to at least `top`, about `count` steps."""
    rough = top / count
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.999)
    return [round(step * index, 12) for index in range(math.ceil(top / step - 1e-9) + 1)]


def number(value: float) -> str:
    """A tick's text: 0.5, 12, 25k."""
    if value >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def thin(x: Sequence[float], y: Sequence[float], most: int = POINTS) -> list[tuple[float, float]]:
    """At most `most` points: means over equal stretches; the first and the last point stay."""
    pairs = list(zip(x, y, strict=True))
    if len(pairs) <= most:
        return pairs
    edges = [round(index * len(pairs) / most) for index in range(most + 1)]
    stretches = [pairs[start:end] for start, end in itertools.pairwise(edges)]
    means = [(sum(p for p, _ in part) / len(part), sum(q for _, q in part) / len(part)) for part in stretches]
    return [pairs[0], *means[1:-1], pairs[-1]]
