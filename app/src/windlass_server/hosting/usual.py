"""How long a version's requests usually take to run, and what follows for how they are taken. Pure."""

from __future__ import annotations

_LONGEST_SECONDS = 3600.0
_WEIGHT = 0.05
"""Of the last request in what is usual."""
_AT_ONCE_SECONDS = 0.00005
"""Waking another thread for the next request takes as long."""
_GROUP_SECONDS = 0.0002
"""For which an answer may wait for those of the requests that came with its own."""


class Usual:
    """A running mean."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        """None: nothing has run yet."""

    def note(self, seconds: object) -> None:
        """One took so long. Anything but a time counts for nothing: what a worker says is its model's word."""
        if isinstance(seconds, float) and 0 <= seconds < _LONGEST_SECONDS:
            self.seconds = seconds if self.seconds is None else self.seconds + _WEIGHT * (seconds - self.seconds)

    @property
    def at_once(self) -> bool:
        """The thread that reads a request is better off answering it than letting another one read meanwhile."""
        return self.seconds is not None and self.seconds <= _AT_ONCE_SECONDS

    def group(self, batches: int) -> int:
        """How many requests that are there a thread takes, to answer them together. `batches`: rows of the largest
        batch that may be run; 1: none are."""
        if batches > 1:
            return batches
        if not self.at_once or self.seconds is None:
            return 1
        return max(1, int(_GROUP_SECONDS / max(self.seconds, 1e-6)))
