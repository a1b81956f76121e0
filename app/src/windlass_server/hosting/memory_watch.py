"""Ends workers before memory runs out, in the order that costs clients least: candidates, then what has taken more than
it had when it was prepared, then the previous version.

What serves and has taken nothing more is never ended: that would be the outage it is meant to prevent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import structlog

from windlass_server.hosting.memory import MIB, Level, Room, next_look
from windlass_server.hosting.order import Key

log = structlog.get_logger(__name__)

_GONE_SECONDS = 10.0
"""A worker that was ended has given its memory back within this."""
_NOBODY_SECONDS = 1.0
"""Between two looks while memory is short and nobody is to be ended, or can't be read."""


class Standing(Enum):
    """What clients would lose with a version."""

    CANDIDATE = "candidate"
    """Nothing: it is the candidate, or is being prepared for the first time."""
    SPARE = "spare"
    """The way back."""
    SERVING = "serving"


@dataclass(frozen=True)
class Footprint:
    """Bytes that a version's worker has to itself, and that it is meant to have: what it had when it was prepared."""

    size: int
    expected: int


@dataclass(frozen=True)
class Occupant:
    """A version that has a worker."""

    key: Key
    standing: Standing
    footprint: Footprint

    def grown(self, slack: int) -> int:
        """Bytes above what it is meant to have, and `slack`; not above 0: none."""
        return self.footprint.size - self.footprint.expected - slack


@dataclass(frozen=True)
class Choice:
    """Who is to be ended."""

    key: Key
    own_fault: bool
    """It has taken more than it was meant to have."""


def choose(occupants: Iterable[Occupant], slack: int) -> Choice | None:
    """Whom to end; None: nobody. `slack`: bytes by which a version may grow without being at fault."""
    everybody = list(occupants)
    grown = {each.key: each.grown(slack) for each in everybody}
    for group in (
        [each for each in everybody if each.standing is Standing.CANDIDATE],
        [each for each in everybody if grown[each.key] > 0],
        [each for each in everybody if each.standing is Standing.SPARE],
    ):
        if group:
            # In each group the one that took most.
            key = max(group, key=lambda each: (grown[each.key], each.footprint.size, each.key)).key
            return Choice(key, own_fault=grown[key] > 0)
    return None


class Evictable(Protocol):
    """What is watched over: a host."""

    def occupants(self) -> list[Occupant]:
        """Versions that have a worker now."""
        ...

    async def evict(self, key: Key, why: str, *, own_fault: bool) -> None:
        """Ends a version's worker and waits until it is gone."""
        ...


class MemoryWatch:
    """Runs beside everything else, until cancelled."""

    def __init__(self, room: Room, host: Evictable) -> None:
        self._room = room
        self._host = host
        self._said = ""

    async def run(self) -> None:
        """Looks the more often the less is left, and acts below half of the reserve."""
        least = self._room.reserve // 2
        while True:
            try:
                level = self._room.level()
            except (OSError, ValueError) as error:
                self._say(f"what is left of the memory can't be read: {error}")
                await asyncio.sleep(_NOBODY_SECONDS)
                continue
            if level.left >= least:
                self._said = ""
                await asyncio.sleep(next_look(level.left - least))
            else:
                await self._make_room(level)

    async def _make_room(self, level: Level) -> None:
        choice = choose(self._host.occupants(), self._room.reserve // 4)
        left = f"{max(level.left, 0) / MIB:.0f} MiB of {level.limit / MIB:.0f} MiB were left ({level.source})"
        if choice is None:
            self._say(f"{left}, and no version can be ended without an outage: raise the memory limit")
            await asyncio.sleep(_NOBODY_SECONDS)
            return
        why = f"it took memory until {left}" if choice.own_fault else f"memory ran short: {left}"
        log.error("worker ended for memory", model=choice.key.model, version=choice.key.version, reason=why)
        try:
            async with asyncio.timeout(_GONE_SECONDS):
                await self._host.evict(choice.key, why, own_fault=choice.own_fault)
        except TimeoutError:
            self._say(f"the worker of version {choice.key} doesn't end")

    def _say(self, what: str) -> None:
        """Once, as long as it lasts."""
        if self._said != what[:40]:
            log.error("memory is short", reason=what)
            self._said = what[:40]
