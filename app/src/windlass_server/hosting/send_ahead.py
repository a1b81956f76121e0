"""How many requests a worker is sent at a time. Pure."""

from __future__ import annotations

from windlass_server.hosting.usual import Usual

SECONDS_AHEAD = 0.001
"""Of the worker's work that may wait in its channel, beyond the next request."""
MOST_AHEAD = 32


class SendAhead:
    """One more than it runs at a time, so that it needn't wait for us between two.

    Where its requests take so little time that waking it for each would take longer, more are sent, and then go through
    its channel several at a time: as many as it works off in a millisecond. A request that was sent can't be given to
    another worker any more, nor taken back.
    """

    def __init__(self, threads: int) -> None:
        self._least = threads + 1
        self._usual = Usual()
        self.places = self._least
        """Requests that it may have at a time."""

    def answered(self, seconds: object) -> int:
        """It has answered one, and says that running it took so long, or nothing. How many may be sent in its place."""
        self._usual.note(seconds)
        wanted = self._least + self._ahead()
        if self.places > wanted:
            self.places -= 1
            return 0
        if self.places < wanted:
            self.places += 1
            return 2
        return 1

    def _ahead(self) -> int:
        usual = self._usual.seconds
        return 0 if usual is None else min(MOST_AHEAD, int(SECONDS_AHEAD / max(usual, 1e-9)))
