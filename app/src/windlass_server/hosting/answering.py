"""Runs admitted requests: on the version they were admitted to and, where that fails by its own fault, once more."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from windlass_server.errors import Code, ServingError
from windlass_server.hosting.breaker import Breakers
from windlass_server.hosting.faults import NoAnswerInTimeError, WorkerLostError
from windlass_server.hosting.hosting import Admission
from windlass_server.hosting.router import RoutingTable
from windlass_server.hosting.second_answer import (
    any_other,
    is_answered_again,
    same_interface,
    second_of,
    time_for_first,
)
from windlass_server.hosting.slot import Place, Slot, Ticket
from windlass_server.tensors import Tensor

_BLAMED_SHARE = 0.5
"""A request that had no answer in time is the version's fault if the worker answered nothing for this share of the
time: else there was simply too much to do."""


@dataclass(frozen=True)
class _Question:
    signature: str
    inputs: Mapping[str, Tensor]
    outputs: list[str] | None


class Answering:
    """Belongs to the host, and to the event loop's thread."""

    def __init__(
        self,
        breakers: Breakers,
        queue_length: int,
        table: Callable[[], RoutingTable[Slot]],
        on_open: Callable[[Slot], None],
        spawn: Callable[[Awaitable[None]], object],
    ) -> None:
        """`table`: the routing as it is now. `on_open` is called when a version's breaker has opened. `spawn` runs
        something beside."""
        self._breakers = breakers
        self._queue_length = queue_length
        self._table = table
        self._on_open = on_open
        self._spawn = spawn

    async def answer(
        self, ticket: Ticket, signature: str, inputs: Mapping[str, Tensor], outputs: list[str] | None
    ) -> dict[str, Tensor]:
        """See `Hosting.infer`."""
        slot, question = ticket.place.slot, _Question(signature, inputs, outputs)
        if ticket.place.given_back or slot.resident is None:
            raise ServingError(Code.INTERNAL, "This admission was given back already")
        left = ticket.deadline - time.monotonic()
        if left <= 0:
            ticket.place.give_back()
            slot.meter.refuse(Code.DEADLINE_EXCEEDED)
            raise ServingError(Code.DEADLINE_EXCEEDED, "The request's deadline passed before it was run")
        second = self._second(ticket, question)
        usual = None if second is None else second.meter.usual_seconds()
        try:
            answer = await _run(slot, question, time_for_first(left, usual), explicit=ticket.explicit)
        except ServingError as error:
            failed = error
        else:
            if not ticket.explicit:
                self._breakers.note(slot.key, failed=False, now=time.monotonic())
            return answer
        finally:
            ticket.place.give_back()
        return await self._answer_again(ticket, question, failed)

    async def _answer_again(self, ticket: Ticket, question: _Question, failed: ServingError) -> dict[str, Tensor]:
        """By another version. Raises the first version's error when there is no second answer."""
        left = ticket.deadline - time.monotonic()
        again = is_answered_again(failed.code, explicit=ticket.explicit, left=left)
        second = self._second(ticket, question) if again else None
        if second is None:
            if self._other(ticket):
                self._blame(ticket.place.slot, failed)
            raise failed
        admission = _admission(ticket, second, self._table().epoch)
        place = Place(second, explicit=False)
        try:
            answer = await _run(second, question, left, explicit=False)
        except ServingError:
            # Both fail: that says nothing against one of them, rather something about the request.
            raise failed from None
        finally:
            place.give_back()
        ticket.place.answered_by = admission
        ticket.place.slot.meter.fall_back()
        self._blame(ticket.place.slot, failed)
        return answer

    def _second(self, ticket: Ticket, question: _Question) -> Slot | None:
        """Who would answer a request again."""
        slot = self._other(ticket)
        if slot is None:
            return None
        fits = slot.resident is not None and same_interface(
            question.signature, ticket.signatures, slot.resident.signatures
        )
        return slot if fits and slot.prepared and slot.waiting < self._queue_length else None

    def _other(self, ticket: Ticket) -> Slot | None:
        """Who could have the traffic of the version that a request was admitted to."""
        return None if ticket.explicit else self.other_than(ticket.place.slot)

    def other_than(self, slot: Slot) -> Slot | None:
        """Who could have a version's traffic."""
        routes = self._table().models.get(slot.key.model)
        if routes is None or not any_other(slot, routes.seconds):
            return None
        broken = [held.target for held in routes.seconds if held.target.key in self._breakers.open]
        held = second_of(slot, routes.seconds, broken)
        return None if held is None else held.target

    def _blame(self, slot: Slot, error: ServingError) -> None:
        """Tells the breaker, of faults that are the version's own."""
        match error:
            case WorkerLostError():
                self._spawn(self._blame_crash(slot, error))
            case NoAnswerInTimeError(own_share=share):
                if share >= _BLAMED_SHARE:
                    self._note_failure(slot)
            case ServingError(code=Code.INTERNAL | Code.RESOURCE_EXHAUSTED):
                self._note_failure(slot)

    def _note_failure(self, slot: Slot) -> None:
        if self._breakers.note(slot.key, failed=True, now=time.monotonic()):
            self._on_open(slot)

    async def _blame_crash(self, slot: Slot, error: WorkerLostError) -> None:
        if await error.crashed() and self._breakers.crashed(slot.key, error.worker, now=time.monotonic()):
            self._on_open(slot)


async def _run(slot: Slot, question: _Question, timeout: float, *, explicit: bool) -> dict[str, Tensor]:  # noqa: ASYNC109 - see `HeldResident`
    if slot.resident is None:
        raise ServingError(Code.UNAVAILABLE, f"Version {slot.key} is not there any more")
    started = time.monotonic()
    try:
        answer = await slot.resident.infer(question.signature, question.inputs, question.outputs, timeout=timeout)
    except ServingError as error:
        slot.meter.count(error.code, time.monotonic() - started, explicit=explicit)
        raise
    slot.meter.count(None, time.monotonic() - started, explicit=explicit)
    return answer


def _admission(ticket: Ticket, slot: Slot, epoch: int) -> Admission:
    """Who answers instead, for the answer's headers."""
    resident = slot.resident
    if resident is None or resident.manifest is None:
        raise ServingError(Code.INTERNAL, f"Version {slot.key} is prepared without a manifest")
    return Admission(
        model=ticket.model,
        version=slot.key.version,
        digest=slot.key.digest,
        epoch=epoch,
        explicit=False,
        manifest=resident.manifest,
        signatures=resident.signatures,
    )
