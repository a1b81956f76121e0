"""Python's collector of cycles, by the clock instead of by the number of new objects.

A request makes hundreds of objects and leaves no cycle behind when it goes well; the collector would look at all that
are being answered after every dozen requests, which takes a tenth of the event loop's time, and now and then at
everything that was ever loaded, which stops it for tens of milliseconds.
"""

from __future__ import annotations

import asyncio
import gc

SECONDS = 0.5
"""So long what a failed request leaves behind may stay: its error knows the frames, and they know the body."""
_MOST_NEW = 50_000
"""Objects that make it look all the same, before its time."""


def imported_late() -> None:
    """To be called after an import that came after the start: looking at tens of thousands of objects of modules, twice
    a second, would stop the event loop for as long as dozens of requests take. From any thread; does nothing where
    `collect_by_the_clock` doesn't run."""
    if gc.get_freeze_count():
        gc.freeze()


async def collect_by_the_clock() -> None:
    """Until cancelled. What is there now is never looked at again."""
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(_MOST_NEW, *before[1:])
    try:
        while True:
            await asyncio.sleep(SECONDS)
            # At all that came since the start. The young alone would spare a third of a millisecond, and leave for ever
            # what was held for longer than a moment: by a request that took a second, by a version that served.
            gc.collect()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
