"""What a host has begun and not yet ended: actions, and looks it will take later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

# So that what was waited for is surely over when it is looked at.
LATER_SECONDS = 0.01


class Tasks:
    """Belongs to the thread of the running event loop."""

    def __init__(self, look: Callable[[], None]) -> None:
        """`look` is called when a timer ends."""
        self._look = look
        self._running: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Begins an action. One that breaks is a fault of ours, and is told to the event loop."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A fault of ours, not of a version: nothing sensible can be done here, so it must be seen.
            asyncio.get_running_loop().call_exception_handler({"message": "an action failed", "exception": error})

    async def ended(self) -> None:
        """Waits until every action has ended, those begun meanwhile too."""
        while self._running:
            await asyncio.wait(self._running)

    def later(self, name: str, delay: float) -> None:
        """Looks again after `delay` seconds; one timer per name, the latest counts."""
        if name in self._timers:
            self._timers.pop(name).cancel()

        def look() -> None:
            del self._timers[name]
            self._look()

        self._timers[name] = asyncio.get_running_loop().call_later(delay + LATER_SECONDS, look)

    def cancel_timers(self) -> None:
        """From now on nothing is looked at later, until the next `later`."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
