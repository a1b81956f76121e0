"""Python's collector of cycles, by the clock instead of by the number of new objects.

A request makes hundreds of objects and leaves no cycle behind when it goes well; the collector would look at all that
are being answered after every dozen requests, which takes a tenth of the event loop's time, and now and then at
everything that was ever loaded, which stops it for tens of milliseconds.
"""

from __future__ import annotations

import asyncio
import gc
import itertools

SECONDS = 0.5
"""So long what a failed request leaves behind may stay: its error knows the frames, and they know the body."""
ALL_EVERY = 20
"""Of so many looks one is at all that came since the start, also at what was there the last time: what a version leaves
behind that was held for longer than a moment."""
_MOST_NEW = 50_000
"""Objects that make it look all the same, before its time."""


async def collect_by_the_clock() -> None:
    """Until cancelled. What is there now is never looked at again."""
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(_MOST_NEW, *before[1:])
    try:
        for look in itertools.count(1):
            await asyncio.sleep(SECONDS)
            gc.collect(1 if look % ALL_EVERY else 2)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
