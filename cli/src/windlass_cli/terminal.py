"""The terminal: answers on standard output, progress and notes on standard error."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status

out = Console(soft_wrap=True, highlight=False)
"""For lines that are to stay whole, in a pipe and in a terminal."""
screen = Console(highlight=False)
"""For views that are laid out for the terminal's width."""
err = Console(stderr=True, soft_wrap=True, highlight=False)


class Progress:
    """What is being done: one moving line on a terminal, a line per step elsewhere. Lives from `with` to its end."""

    def __init__(self, title: str, *, console: Console = err) -> None:
        self._console = console
        self._title = title
        self._status: Status | None = None
        self._last = ""
        self._shown = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status(self._title)
            self._status.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def step(self, text: str) -> None:
        """Something new begins."""
        if text == self._last:
            return
        self._last = text
        if self._status is not None:
            self._status.update(f"{self._title}: {text}")
        else:
            self._console.print(f"{self._title}: {text}", markup=False)

    def amount(self, text: str) -> None:
        """How far the step is; shown on a terminal only, ten times a second at most."""
        now = time.monotonic()
        if self._status is not None and now - self._shown > 0.1:
            self._shown = now
            self._status.update(f"{self._title}: {self._last} {text}")


def note(text: str) -> None:
    """Something worth knowing, not an error."""
    err.print(f"note: {text}", style="yellow", markup=False)


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")
