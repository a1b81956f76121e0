"""The durable object of a server, wherever it is kept: plan and record in one, written by compare and replace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from windlass_contract.record import ServerState


class StoreError(Exception):
    """The durable object can't be read or written now; the message names it."""


class StoreConflictError(Exception):
    """The durable object isn't what the write was computed from, or the hold on it is lost: compute again."""


class DamagedStateError(Exception):
    """The durable object is there and is no `ServerState` of its server."""


class HoldLostError(Exception):
    """Another operator may act by now."""


@dataclass(frozen=True)
class Stored:
    """A durable object as it was read."""

    state: ServerState | None
    """None: there is none."""
    generation: str
    """Changes with each write by whomever; empty: there is none."""


class DurableStore(Protocol):
    """The durable objects of all servers. `key` names the server among all those of the operator."""

    async def age(self, key: str, generation: str) -> float | None:
        """Seconds since the object was last seen to have that generation; None: it has another now, or is gone.
        Raises `StoreError` when that can't be said.
        """
        ...

    async def read(self, key: str) -> Stored:
        """The object. Raises `StoreError` when it can't be read, `DamagedStateError` when it is damaged; then
        `put_aside` makes it count as missing, since replicas carry what it takes to rebuild it.
        """
        ...

    async def put_aside(self, key: str) -> str:
        """Makes a damaged object count as missing; returns where it can still be looked at. Raises `StoreError`."""
        ...

    async def write(self, key: str, state: ServerState, expected: str) -> str:
        """Replaces the object whose generation is `expected` (empty: there is none), and returns the new generation.
        It is durable when this returns. Raises `StoreConflictError` and `StoreError`.
        """
        ...
