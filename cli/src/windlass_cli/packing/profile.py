"""What a machine can do with a version: figures by threads and batch size, and what follows from them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

PAYS = 1.1
"""Times the rate of single rows from which on it is worth sending several in a request."""
NEARLY = 0.95
"""Share of the best rate that counts as good as it."""
_COLOURS = ("#27c", "#c33", "#2a2", "#a6c", "#c93", "#555")
_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 360, 80, 44


@dataclass(frozen=True)
class Cell:
    """Requests of `batch` rows, `threads` of them at a time. Milliseconds."""

    threads: int
    batch: int
    rows_per_second: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Advice:
    """Which of the cells to work with."""

    single: Cell
    """The most rows per second, one row in a request."""
    best: Cell
    """The most rows per second at all, with the fewest rows in a request that nearly give them."""

    @property
    def batching_pays(self) -> bool:
        """Whether several rows in a request are worth their wait."""
        return self.best.rows_per_second >= PAYS * self.single.rows_per_second

    def sentences(self) -> list[str]:
        """For people."""
        one, best = self.single, self.best
        least = "one row" if one.batch == 1 else f"{one.batch} rows"
        lines = [
            f"requests of {least}: {one.rows_per_second:,.0f} rows per second with {_threads(one.threads)}, "
            f"each answered in {one.p50:.3g} ms"
        ]
        if self.batching_pays:
            lines.append(
                f"send {best.batch} rows in a request: {best.rows_per_second:,.0f} rows per second with "
                f"{_threads(best.threads)} ({best.rows_per_second / one.rows_per_second:.2f} times as many), each "
                f"answered in {best.p50:.3g} ms; pack it with --warmup {one.batch},{best.batch}"
            )
        else:
            lines.append("more rows in a request don't pay: send them as they come")
        return lines


def advice(cells: Sequence[Cell]) -> Advice:
    """Raises `ValueError` when there are no cells."""
    if not cells:
        raise ValueError("there are no figures to go by")
    least = min(each.batch for each in cells)
    single = max((each for each in cells if each.batch == least), key=lambda each: each.rows_per_second)
    most = max(each.rows_per_second for each in cells)
    enough = [each for each in cells if each.rows_per_second >= NEARLY * most]
    return Advice(single, min(enough, key=lambda each: (each.batch, -each.rows_per_second)))


def plot(cells: Sequence[Cell], title: str) -> str:
    """SVG: rows per second over rows in a request, a line for each number of threads."""
    batches = sorted({each.batch for each in cells})
    most = max(each.rows_per_second for each in cells) * 1.05
    bottom, right = _HEIGHT - 50, _WIDTH - 110
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="24" font-weight="bold">{escape(title)}: rows per second</text>',
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#888"/>',
        f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">rows in a request</text>',
    ]

    def x(batch: int) -> float:
        return _LEFT + (right - _LEFT) * (batches.index(batch) + 0.5) / len(batches)

    def y(rate: float) -> float:
        return bottom - (bottom - _TOP) * rate / most

    parts += [
        f'<text x="{_LEFT - 6}" y="{y(rate) + 4:.1f}" text-anchor="end">{rate:,.0f}</text>'
        for rate in (0, most / 2, most)
    ]
    parts += [f'<text x="{x(batch):.1f}" y="{bottom + 18}" text-anchor="middle">{batch}</text>' for batch in batches]
    for number, threads in enumerate(sorted({each.threads for each in cells})):
        colour = _COLOURS[number % len(_COLOURS)]
        line = sorted((each for each in cells if each.threads == threads), key=lambda each: each.batch)
        points = [(x(each.batch), y(each.rows_per_second)) for each in line]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points]
        px, py = points[-1]
        parts.append(f'<text x="{px + 10:.1f}" y="{py + 4:.1f}" fill="{colour}">{_threads(threads)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _threads(count: int) -> str:
    return "one at a time" if count == 1 else f"{count} at a time"
