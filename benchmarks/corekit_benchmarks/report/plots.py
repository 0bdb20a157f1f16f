"""Plots as SVG, for a page that needs nothing from elsewhere.

Colours of text and axes come from the page's style; a subject has the same colour in all plots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

#: Told apart also by most who see colours differently, on a light and on a dark ground.
PALETTE = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#8c6d5a", "#7f7fbf", "#a3a300", "#808080"),
)

_WIDTH = 640

_BAR = 18
_ROW = 28
_NAMES = 160
_VALUES = 170

_PLOT_HEIGHT = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 168, 14, 40
_LABEL_STEP = 14


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar, with the range of its repetitions."""

    name: str
    value: float
    low: float
    high: float
    text: str
    """The value as it is written beside the bar."""

    colour: str
    hollow: bool
    """Drawn as an outline: what it stands for keeps less than the others."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line through points."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: where values stand between 0 and 1, and which are written."""

    title: str
    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]


def bars(rows: Sequence[Bar], title: str) -> str:
    """Return horizontal bars from zero, the longest as wide as there is room."""
    most = max((row.high for row in rows), default=0) or 1
    room = _WIDTH - _NAMES - _VALUES
    parts = []
    for number, row in enumerate(rows):
        top = number * _ROW + (_ROW - _BAR) / 2
        middle = top + _BAR / 2
        width = max(1.0, room * row.value / most)
        look = (
            f'fill="{row.colour}" fill-opacity="0.18" stroke="{row.colour}"'
            if row.hollow
            else f'fill="{row.colour}"'
        )
        low, high = (_NAMES + room * at / most for at in (row.low, row.high))
        parts.append(
            f'<text x="{_NAMES - 8}" y="{middle:.1f}" class="name">{escape(row.name)}</text>'
            f'<rect x="{_NAMES}" y="{top:.1f}" width="{width:.1f}" height="{_BAR}" {look}/>'
            f'<path class="range" d="M{low:.1f} {middle:.1f}H{high:.1f}'
            f'M{low:.1f} {middle - 4:.1f}v8M{high:.1f} {middle - 4:.1f}v8"/>'
            f'<text x="{max(high, _NAMES + width) + 8:.1f}" y="{middle:.1f}" class="value">'
            f"{escape(row.text)}</text>"
        )
    return _svg("".join(parts), len(rows) * _ROW, title)


def lines(curves: Sequence[Curve], across: Axis, up: Axis, title: str) -> str:
    """Return *curves* with their names at the right end."""
    width, height = _WIDTH - _LEFT - _RIGHT, _PLOT_HEIGHT - _TOP - _BOTTOM

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x, y = across.place(point[0]), up.place(point[1])
        return _LEFT + width * x, _TOP + height * (1 - y)

    parts = [_grid(across, up, width, height)]
    ends = []
    for curve in curves:
        places = [at(point) for point in curve.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="curve" stroke="{curve.colour}" d="M{path}"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{curve.colour}"/>' for x, y in places
        ]
        ends.append((places[-1], curve))
    parts += _labels(ends, _LEFT + width)
    return _svg("".join(parts), _PLOT_HEIGHT, title)


def log_axis(title: str, values: Sequence[float], written: Callable[[float], str]) -> Axis:
    """Return a logarithmic axis that holds *values*, all above 0, with a tick at powers of ten."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    if first == last:
        last += 1
    powers = [10.0**power for power in range(first, last + 1)]
    if len(powers) <= 2:
        powers = [power * step for power in powers[:-1] for step in (1, 2, 5)] + powers[-1:]
    return Axis(
        title,
        lambda value: (math.log10(value) - first) / (last - first),
        [(power, written(power)) for power in powers],
    )


def even_axis(title: str, values: Sequence[float], written: Callable[[float], str]) -> Axis:
    """Return an axis on which *values* stand at even distances, each with a tick."""
    order = sorted(set(values))
    steps = max(1, len(order) - 1)
    return Axis(
        title,
        lambda value: order.index(value) / steps,
        [(value, written(value)) for value in order],
    )


def _grid(across: Axis, up: Axis, width: float, height: float) -> str:
    bottom = _TOP + height
    parts = []
    for value, text in up.ticks:
        y = _TOP + height * (1 - up.place(value))
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y:.1f}h{width}"/>'
            f'<text x="{_LEFT - 8}" y="{y:.1f}" class="name">{escape(text)}</text>'
        )
    for value, text in across.ticks:
        x = _LEFT + width * across.place(value)
        parts.append(
            f'<path class="grid" d="M{x:.1f} {_TOP}v{height}"/>'
            f'<text x="{x:.1f}" y="{bottom + 14}" class="tick">{escape(text)}</text>'
        )
    parts.append(
        f'<text x="{_LEFT + width / 2:.1f}" y="{bottom + 31}" class="tick">'
        f"{escape(across.title)}</text>"
    )
    return "".join(parts)


def _labels(ends: Sequence[tuple[tuple[float, float], Curve]], x: float) -> list[str]:
    """Write each curve's name where it ends, moved apart where they would meet."""
    parts = []
    lowest = -math.inf
    # If pushing down leaves the plot, all begin higher.
    ordered = sorted(ends, key=lambda end: end[0][1])
    floor: float = _PLOT_HEIGHT - _BOTTOM + 6
    places: list[float] = []
    for (_, y), _curve in ordered:
        lowest = max(y, lowest + _LABEL_STEP)
        places.append(lowest)
    for number in range(len(places) - 1, -1, -1):
        places[number] = min(places[number], floor)
        floor = places[number] - _LABEL_STEP
    for ((end_x, end_y), curve), y in zip(ordered, places, strict=True):
        parts.append(
            f'<path class="lead" stroke="{curve.colour}" '
            f'd="M{end_x:.1f} {end_y:.1f}L{x + 12:.1f} {y:.1f}"/>'
            f'<circle cx="{x + 16:.1f}" cy="{y:.1f}" r="4" fill="{curve.colour}"/>'
            f'<text x="{x + 24:.1f}" y="{y:.1f}" class="value">{escape(curve.name)}</text>'
        )
    return parts


def _svg(content: str, height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{content}</svg>"
    )
