"""Waiting for what other processes do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

DEADLINE_SECONDS = 90.0
"""Generous: the machine may be busy."""


async def until(condition: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
    """Returns once the condition holds. Raises `TimeoutError` when it doesn't within `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - other processes set no event here
            await asyncio.sleep(0.02)
