"""A small plot as an SVG file: panels below each other, points over a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP = 760, 180, 70, 34
_INNER = WIDTH - LEFT - 20


@dataclass(frozen=True)
class Panel:
    """`values[i]` belongs to number i + 1. `lines`: values to draw a line at, each with what it is."""

    title: str
    values: Sequence[float]
    lines: Sequence[tuple[float, str]] = ()
    least: float = 0.0
    """Where the axis begins."""


def svg(panels: Sequence[Panel], numbers: str) -> str:
    """The plot. `numbers`: what is counted along the axis."""
    height = len(panels) * (HEIGHT + TOP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for position, panel in enumerate(panels):
        parts += _panel(panel, TOP + position * (HEIGHT + TOP))
    count = max(len(panel.values) for panel in panels)
    parts.append(f'<text x="{LEFT + _INNER / 2:.0f}" y="{height - 12}" text-anchor="middle">{escape(numbers)}</text>')
    parts += [
        f'<text x="{_x(number, count):.0f}" y="{height - 28}" text-anchor="middle">{number}</text>'
        for number in sorted({1, count // 2, count} - {0})
    ]
    return "\n".join([*parts, "</svg>", ""])


def _x(number: float, count: int) -> float:
    return LEFT + _INNER * (number - 1) / max(count - 1, 1)


def _panel(panel: Panel, top: float) -> list[str]:
    most = max([*panel.values, *(value for value, _ in panel.lines)])
    most += (most - panel.least) * 0.05 or 1.0
    bottom = top + HEIGHT - 10

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - panel.least) / (most - panel.least)

    parts = [
        f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{escape(panel.title)}</text>',
        f'<path d="M{LEFT} {top}V{bottom}H{LEFT + _INNER}" fill="none" stroke="#888"/>',
    ]
    parts += [
        f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        for value in (panel.least, (panel.least + most) / 2, most)
    ]
    for value, name in panel.lines:
        parts.append(f'<path d="M{LEFT} {y(value):.1f}h{_INNER}" stroke="#c33" stroke-dasharray="5 4"/>')
        parts.append(f'<text x="{LEFT + _INNER}" y="{y(value) - 4:.1f}" text-anchor="end">{escape(name)}</text>')
    parts += [
        f'<circle cx="{_x(number, len(panel.values)):.1f}" cy="{y(value):.1f}" r="2" fill="#27c"/>'
        for number, value in enumerate(panel.values, 1)
    ]
    return parts
