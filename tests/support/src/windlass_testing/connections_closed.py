"""Event loops that end when their connections have: a TLS connection takes some turns of the loop to close, and neither
asyncio nor aiohttp has a call that waits for them."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

SECONDS = 10
"""For the other sides to agree to the close."""
_OF_THE_LOOP_ITSELF = 1

Result = TypeVar("Result")


class WatchedLoop:
    """A new event loop, and what it waits for."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.loop = asyncio.SelectorEventLoop(self._selector)

    async def connections_closed(self) -> None:
        """Called in the loop: returns when nothing is open in it. Raises `TimeoutError` when something stays open."""
        async with asyncio.timeout(SECONDS):
            # The end of a connection sets no event.
            while len(self._selector.get_map()) > _OF_THE_LOOP_ITSELF:  # noqa: ASYNC110
                await asyncio.sleep(0.002)


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """As `asyncio.run`, but the loop ends when all of its connections are closed. Raises what `main` raises."""
    watched = WatchedLoop()
    with asyncio.Runner(loop_factory=lambda: watched.loop) as runner:
        try:
            return runner.run(main)
        finally:
            runner.run(watched.connections_closed())
