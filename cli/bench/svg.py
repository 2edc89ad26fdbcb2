"""Line charts as SVG, drawn by hand: nothing is loaded, and nothing runs, where they are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 44


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: points from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    y_max: float | None = None,
    logarithmic: bool = False,
) -> str:
    """A chart.

    Args:
        title: What it shows, for those who cannot see it too.
        lines: The curves; they are told apart by colour and by dashes.
        x_label, y_label: With units.
        y_max: The upper end of the vertical axis; by default that of the curves. The lower one is 0.
        logarithmic: Whether the horizontal axis is. Points at or below 0 are then left out.
    """
    kept = [Line(line.name, [p for p in line.points if not logarithmic or p[0] > 0]) for line in lines]
    points = [point for line in kept for point in line.points]
    if not points:
        return ""
    x_ticks = _log_ticks(points) if logarithmic else _ticks(0.0, max(x for x, _ in points))
    y_ticks = _ticks(0.0, y_max or max(y for _, y in points))
    to_x = _scale(x_ticks, LEFT, WIDTH - RIGHT, logarithmic)
    to_y = _scale(y_ticks, HEIGHT - BOTTOM, TOP, False)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_axes(x_ticks, y_ticks, to_x, to_y, x_label, y_label),
    ]
    for number, line in enumerate(kept):
        coordinates = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line c{number % 4}" points="{coordinates}"/>')
    parts += _legend([line.name for line in kept])
    return "\n".join([*parts, "</svg>"])


def _axes(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    x_label: str,
    y_label: str,
) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts: list[str] = []
    for tick in x_ticks:
        x = to_x(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_number(tick)}</text>')
    for tick in y_ticks:
        y = to_y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    parts.append(
        f'<text x="{middle_x}" y="{HEIGHT - 8}" text-anchor="middle" class="label">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text transform="translate(14 {middle_y}) rotate(-90)" text-anchor="middle" class="label">'
        f"{escape(y_label)}</text>"
    )
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    if len(names) < 2:
        return []
    parts: list[str] = []
    for number, name in enumerate(names):
        y = HEIGHT - BOTTOM - 16 - 16 * (len(names) - 1 - number)
        x = WIDTH - RIGHT - 160
        parts.append(f'<line class="line c{number % 4}" x1="{x}" y1="{y}" x2="{x + 24}" y2="{y}"/>')
        parts.append(f'<text x="{x + 30}" y="{y + 4}">{escape(name)}</text>')
    return parts


def _scale(ticks: Sequence[float], start: float, end: float, logarithmic: bool) -> Callable[[float], float]:
    """From values to coordinates; the outermost ticks are the ends."""
    place = math.log10 if logarithmic else float
    low, high = place(ticks[0]), place(ticks[-1])
    return lambda value: start + (end - start) * (place(value) - low) / ((high - low) or 1.0)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to at least `high`, some five of them."""
    if high <= low:
        high = low + 1.0
    raw = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    return [low + step * index for index in range(math.ceil((high - low) / step - 1e-9) + 1)]


def _log_ticks(points: Sequence[tuple[float, float]]) -> list[float]:
    """Numbers that begin with 1, 2 or 5, around all points."""
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = [digit * 10.0**exponent for exponent in exponents for digit in (1, 2, 5)]
    first = max(index for index, step in enumerate(steps) if step <= low * 1.000001)
    last = min(index for index, step in enumerate(steps) if step >= high * 0.999999)
    chosen = steps[first : max(last, first + 1) + 1]
    if len(chosen) > 10:  # the powers of ten alone
        tens = steps[0::3]
        first = max(index for index, step in enumerate(tens) if step <= low * 1.000001)
        last = min(index for index, step in enumerate(tens) if step >= high * 0.999999)
        chosen = tens[first : last + 1]
    return chosen


def _number(value: float) -> str:
    """A tick's label: 0.5, 20, 1.5k."""
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"
