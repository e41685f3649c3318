"""A line plot as an SVG file: logarithmic axes, a legend at the right, limits as dashed lines.

It brings its own colours for light and dark, and a background, so that it can be read anywhere.
Knows nothing of what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 250, 40, 55
# Told apart by people who see red and green alike, and readable on white and on black.
COLOURS = ("#d1495b", "#2b7bba", "#3a9d5d", "#b7791f", "#8a63d2", "#0f9aa8", "#7a7a7a")
# Light is written into the elements, for viewers that know no style sheets.
FONT = 'role="img" font-family="sans-serif" font-size="13"'
GRID, AXIS, TEXT = "#d0d7de", "#57606a", "#24292f"
DARK = """@media (prefers-color-scheme: dark) {
  .ground { fill: #0d1117 } .text { fill: #e6edf3 } .grid { stroke: #30363d }
  .axis, .limit { stroke: #9da7b3 } }"""
LIMIT = f'class="limit" fill="none" stroke="{AXIS}" stroke-width="1.5"'
DASHES = ("9 4", "2 3", "9 3 2 3", "16 5")


@dataclass(frozen=True)
class Line:
    """Points (x, y), all above 0, from left to right. A limit is drawn dashed and without dots."""

    name: str
    points: Sequence[tuple[float, float]]
    is_limit: bool = False


def line_plot(title: str, x_label: str, y_label: str, lines: Sequence[Line]) -> str:
    """The SVG file's text. The x axis is marked where there are points."""
    xs = sorted({x for line in lines for x, _ in line.points})
    ys = [y for line in lines for _, y in line.points]
    x_scale = _Scale(xs[0], xs[-1], LEFT, WIDTH - RIGHT)
    y_scale = _Scale(min(ys) / 1.2, max(ys) * 1.2, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f"<title>{escape(title)}</title><style>{DARK}</style>",
        f'<rect class="ground" fill="#ffffff" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        _text(LEFT, TOP - 16, title, "start", ' font-weight="bold"'),
    ]
    for y in ticks(y_scale.low, y_scale.high):
        at = y_scale(y)
        parts.append(_stroke("grid", GRID, LEFT, at, WIDTH - RIGHT, at))
        parts.append(_text(LEFT - 8, at + 4, f"{y:,g}", "end"))
    for x in xs:
        at = x_scale(x)
        parts.append(_stroke("grid", GRID, at, TOP, at, HEIGHT - BOTTOM))
        parts.append(_text(at, HEIGHT - BOTTOM + 18, f"{x:,g}", "middle"))
    parts.append(_stroke("axis", AXIS, LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM))
    parts.append(_stroke("axis", AXIS, LEFT, TOP, LEFT, HEIGHT - BOTTOM))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_label, "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f' transform="rotate(-90 16 {middle:.1f})"'
    parts.append(_text(16, middle, y_label, "middle", turned))
    colours = iter(COLOURS * (1 + len(lines) // len(COLOURS)))
    dashes = iter(DASHES * len(lines))
    for index, line in enumerate(lines):
        if line.is_limit:
            look = f'{LIMIT} stroke-dasharray="{next(dashes)}"'
        else:
            colour = next(colours)
            look = f'fill="none" stroke="{colour}" stroke-width="2.2"'
            for x, y in line.points:
                place = f'cx="{x_scale(x):.1f}" cy="{y_scale(y):.1f}"'
                parts.append(f'<circle {place} r="3.2" fill="{colour}"/>')
        path = " ".join(f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline {look} points="{path}"/>')
        row = TOP + 12 + 21 * index
        begin = WIDTH - RIGHT + 16
        parts.append(f'<polyline {look} points="{begin},{row} {begin + 26},{row}"/>')
        parts.append(_text(begin + 34, row + 4, line.name, "start"))
    return "\n".join([*parts, "</svg>", ""])


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between `low` and `high`; of a wide range the powers only."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 500 else (1,)
    values = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in values if low <= value <= high]


@dataclass(frozen=True)
class _Scale:
    """A logarithmic axis: the values `low` to `high` on the places `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        if self.high == self.low:
            return (self.begin + self.end) / 2
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.begin + share * (self.end - self.begin)


def _stroke(name: str, colour: str, x1: float, y1: float, x2: float, y2: float) -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{name}" stroke="{colour}" {place}/>'


def _text(x: float, y: float, text: str, anchor: str, extra: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}'
    return f'<text class="text" fill="{TEXT}" {place}>{escape(text)}</text>'
