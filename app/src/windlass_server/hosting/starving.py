"""Whether a worker that runs only where nobody else wants a processor gets to run at all.

On a machine whose processors are all in use it doesn't, for as long as that lasts; and its thread can't take back what
it gave up (see `run_when_idle`). So somebody has to look, and start another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Protocol, TypeVar

LOOK_SECONDS = 1.0
LEAST_SHARE = 0.1
"""Of a processor, or of what it is held to, over one look. A load that waits for its disk takes as little; to start
that anew costs little too, since what it has read is in memory by then."""

T = TypeVar("T")


class StarvedError(Exception):
    """It is given up, so that another can be started at a priority that gets something everywhere."""


class Watched(Protocol):
    """A worker, as far as it matters here."""

    @property
    def oldest_seconds(self) -> float:
        """See `HostedWorker`."""
        ...

    @property
    def processor_seconds(self) -> float:
        """See `HostedWorker`."""
        ...


async def unless_starved(work: Awaitable[T], worker: Watched, cpus: float | None, within: float) -> T:
    """What `work` gives, which asks the worker for one thing after another. Raises `StarvedError`, with `work`
    cancelled, when the worker had something to do all through a look and hardly ran, or after `within` seconds.
    `cpus`: how many processors' worth of time it is held to."""
    least = LEAST_SHARE * min(1.0, cpus if cpus is not None else 1.0)
    doing = asyncio.ensure_future(work)
    begun = time.monotonic()
    used = worker.processor_seconds
    try:
        while True:
            looked = time.monotonic()
            done, _ = await asyncio.wait([doing], timeout=LOOK_SECONDS)
            if done:
                return await doing
            now = time.monotonic()
            before, used = used, worker.processor_seconds
            if worker.oldest_seconds >= now - looked and used - before < least * (now - looked):
                raise StarvedError
            if now - begun >= within:
                raise StarvedError
    finally:
        doing.cancel()
        await asyncio.wait([doing])
