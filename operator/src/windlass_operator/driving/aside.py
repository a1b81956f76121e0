"""Work beside the passes: a slow disk that people's files are on must not delay the next decision."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog


class Aside:
    """Does `work` in a task of its own whenever it was asked to: one at a time, once for all that was asked meanwhile,
    and a last time after `close`.
    """

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._asked = asyncio.Event()
        self._closed = False

    def ask(self) -> None:
        """There is something to do."""
        self._asked.set()

    def close(self) -> None:
        """Nothing more will be asked: `run` ends once everything is done."""
        self._closed = True
        self._asked.set()

    async def run(self) -> None:
        """Until `close`."""
        while not self._closed or self._asked.is_set():
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._work()
            except Exception:  # noqa: BLE001 - as the comment says
                # A fault of ours: it must stop neither the passes nor what is to be told later.
                structlog.get_logger("windlass.telling").exception("telling.failed")
