"""Holds processes to a share of the processors' time, by stopping and continuing them.

Under a quota of processor time a low priority is no help: what a process of low priority uses up is gone, and then the
kernel stops all of the container for the rest of its period. So what isn't urgent must not use the quota up.

Standard library only: the launcher is to stay tiny.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

from windlass_server.hosting.processes import processor_seconds

BURST_SECONDS = 0.004
"""Processor time that may be used in one go. Short: whoever serves may wait for its end."""
_SHORTEST_SECONDS = 0.001


@dataclass
class Allowance:
    """What a process may use: a bucket of processor time that fills at `rate` and holds `BURST_SECONDS`. What was used
    beyond that is paid back before it runs again. Times in seconds."""

    rate: float
    """Processors' worth of time."""
    now: float
    used: float
    """Processor time of its life so far."""
    left: float = BURST_SECONDS
    running: bool = True
    """What it is to do."""

    def look(self, now: float, used: float) -> float:
        """Decides `running` by what it has used until now, and says in how many seconds to look again."""
        filled = self.left + (now - self.now) * self.rate
        self.left = min(filled, BURST_SECONDS) - (used - self.used)
        self.now, self.used = now, used
        if self.left <= 0:
            self.running = False
        elif self.left >= BURST_SECONDS / 2:
            self.running = True
        if self.running:
            return max(self.left, _SHORTEST_SECONDS)
        return max((BURST_SECONDS / 2 - self.left) / self.rate, _SHORTEST_SECONDS)


@dataclass
class _Held:
    watch: int
    allowance: Allowance
    look_at: float


class Pacer:
    """Processes by their pid. Whoever reaps one lets it go before."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}

    def hold(self, pid: int, watch: int, rate: float) -> None:
        """From now on it gets so many processors' worth of time at most. `watch`: its pidfd."""
        now = time.monotonic()
        self._held[pid] = _Held(watch, Allowance(rate, now, processor_seconds(pid)), now)

    def let_go(self, pid: int) -> None:
        """It runs as it likes. Harmless when it isn't held or has ended."""
        held = self._held.pop(pid, None)
        if held is not None:
            _signal(held.watch, running=True)

    def look(self) -> float | None:
        """Stops and continues what is due, and says in how many seconds to call this again; None: nothing is held."""
        for pid, held in list(self._held.items()):
            now = time.monotonic()
            if now < held.look_at:
                continue
            before = held.allowance.running
            held.look_at = now + held.allowance.look(now, processor_seconds(pid))
            if held.allowance.running != before and not _signal(held.watch, running=held.allowance.running):
                del self._held[pid]
        next_look = min((held.look_at for held in self._held.values()), default=None)
        return None if next_look is None else max(0.0, next_look - time.monotonic())


def _signal(watch: int, *, running: bool) -> bool:
    try:
        signal.pidfd_send_signal(watch, signal.SIGCONT if running else signal.SIGSTOP)
    except ProcessLookupError:
        return False  # it has ended
    return True
