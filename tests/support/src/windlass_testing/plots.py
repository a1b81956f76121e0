"""Small plots as SVG files: panels below each other with points over a number, and bars."""

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


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """A bar for each of `rows`: its name, its value and its colour."""
    left, row = 300, 22
    most = max((value for _, value, _ in rows), default=0) or 1
    height = 44 + row * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="10" y="22" font-weight="bold">{escape(title)}</text>',
    ]
    for position, (name, value, colour) in enumerate(rows):
        top = 36 + row * position
        length = (WIDTH - left - 80) * value / most
        parts += [
            f'<text x="{left - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{top}" width="{length:.1f}" height="{row - 5}" fill="{colour}"/>',
            f'<text x="{left + length + 6:.1f}" y="{top + 14}">{value:,.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
