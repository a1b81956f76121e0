"""Cycles are collected by the clock."""

from __future__ import annotations

import asyncio
import gc
import weakref

from windlass_server import garbage
from windlass_testing.waiting import until


class Knot:
    def __init__(self):
        self.me = self


def test_what_a_failed_request_leaves_behind_goes_soon_and_the_collector_is_given_back_as_it_was(monkeypatch):
    monkeypatch.setattr(garbage, "SECONDS", 0.01)

    async def scenario():
        before = gc.get_threshold()
        collecting = asyncio.create_task(garbage.collect_by_the_clock())
        await until(lambda: gc.get_freeze_count() > 0)
        assert gc.get_threshold()[0] > before[0]
        knot = weakref.ref(Knot())
        await until(lambda: knot() is None)
        collecting.cancel()
        await asyncio.wait([collecting])
        assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)

    asyncio.run(scenario())


def test_what_is_imported_late_is_never_looked_at(monkeypatch):
    monkeypatch.setattr(garbage, "SECONDS", 0.01)

    async def scenario():
        garbage.imported_late()
        assert gc.get_freeze_count() == 0
        collecting = asyncio.create_task(garbage.collect_by_the_clock())
        await until(lambda: gc.get_freeze_count() > 0)
        late = Knot()
        garbage.imported_late()
        assert not any(each is late for each in gc.get_objects())
        collecting.cancel()
        await asyncio.wait([collecting])

    asyncio.run(scenario())


def test_what_was_held_for_long_goes_too(monkeypatch):
    monkeypatch.setattr(garbage, "SECONDS", 0.01)

    async def scenario():
        collecting = asyncio.create_task(garbage.collect_by_the_clock())
        await until(lambda: gc.get_freeze_count() > 0)
        held = Knot()
        knot = weakref.ref(held)
        gc.collect(1)
        gc.collect(1)
        assert any(each is held for each in gc.get_objects(2)), "the oldest are looked at only by a whole collection"
        del held
        await until(lambda: knot() is None)
        collecting.cancel()
        await asyncio.wait([collecting])

    asyncio.run(scenario())
