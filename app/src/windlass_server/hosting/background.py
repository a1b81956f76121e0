"""Long work of this process beside the event loop, at low priority."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from windlass_server.hosting.processes import lower_priority

T = TypeVar("T")

NICENESS = 15


class StoppedError(Exception):
    """Nobody waits for the result any more."""


async def in_background(work: Callable[[Callable[[], None]], T], cpus: float | None = None) -> T:
    """Runs `work` in a thread of its own, whose nice value is its own too on Linux. What releases the interpreter's
    lock (hashing, reading) then gives way to requests. `work` gets a function to call now and then: it raises
    `StoppedError` in the thread once the caller was cancelled, and returns late enough that the work takes no more
    than `cpus` processors' worth of time."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    stopped = threading.Event()
    started = time.monotonic()

    def check() -> None:
        ahead = time.thread_time() / cpus - (time.monotonic() - started) if cpus else 0.0
        if stopped.wait(max(ahead, 0.0)):
            raise StoppedError

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            lower_priority(NICENESS)
            result = work(check)
        except BaseException as error:  # noqa: BLE001 - it goes to the caller
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(finish, result, failure)

    threading.Thread(target=run, daemon=True, name="windlass-background").start()
    try:
        return await future
    finally:
        stopped.set()
