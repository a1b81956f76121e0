"""One version that a host holds: its resident, the requests in it, and what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from windlass_contract.failures import Failure
from windlass_contract.manifest import Manifest, Signature
from windlass_contract.plan import PlannedVersion
from windlass_contract.report import VersionReport, VersionState
from windlass_contract.samples import AcceptanceSamples
from windlass_server.hosting.hosting import Admission
from windlass_server.hosting.memory_watch import Footprint
from windlass_server.hosting.meter import Meter
from windlass_server.hosting.order import Key, Phase, View, demand_of
from windlass_server.hosting.router import Held
from windlass_server.tensors import Tensor


class HeldResident(Protocol):
    """What a host needs of `hosting.resident.Resident`."""

    @property
    def state(self) -> VersionState: ...
    @property
    def failure(self) -> Failure | None: ...
    @property
    def manifest(self) -> Manifest | None: ...
    @property
    def digest(self) -> str | None: ...
    @property
    def signatures(self) -> Mapping[str, Signature]: ...
    @property
    def max_batch_size(self) -> int: ...
    @property
    def slice_rows(self) -> int: ...
    @property
    def frozen(self) -> bool: ...
    @property
    def threads(self) -> int: ...
    @property
    def stuck(self) -> bool: ...
    def report(self) -> VersionReport: ...
    async def prepare(self) -> None: ...
    async def infer(
        self,
        signature: str,
        inputs: Mapping[str, Tensor],
        outputs: list[str] | None,
        *,
        timeout: float,  # noqa: ASYNC109 - the worker is told it, so that it doesn't begin what nobody waits for
    ) -> dict[str, Tensor]: ...
    async def unload(self) -> None: ...
    def footprint(self) -> Footprint | None: ...
    async def evict(self, why: str, *, own_fault: bool) -> None: ...


@dataclass(frozen=True)
class Order:
    """A version to make resident."""

    key: Key
    path: Path
    samples: AcceptanceSamples | None
    min_score: int
    """Thousandths."""


@dataclass(eq=False)
class Slot:
    """What is held under one key."""

    key: Key
    planned: PlannedVersion
    meter: Meter
    resident: HeldResident | None = None
    phase: Phase = Phase.IDLE
    task: asyncio.Task[None] | None = None
    """Prepares it."""
    failure: Failure | None = None
    """Why there is no resident yet."""
    fetching: float | None = None
    """Share of its files' bytes that the fetcher has brought; None: it isn't at it."""
    was_prepared: bool = False
    attempts: int = 0
    """To prepare it, in vain."""
    retry_at: float = 0.0
    """When the next one is due, on the event loop's clock."""
    waiting: int = 0
    """Requests admitted by weight and not answered yet."""
    waiting_explicit: int = 0
    """Requests that named it and are not answered yet."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """No request is in it."""

    def __post_init__(self) -> None:
        self.idle.set()
        self.samples = demand_of(self.planned)
        """The samples that it is tried with."""
        self.attempt = self.planned.attempt
        """The attempt that its state tells of."""

    def follow(self, planned: PlannedVersion) -> None:
        """Takes what a plan says of it now. What is prepared, or to be tried yet, counts for a new attempt too."""
        self.planned = planned
        if self.phase is Phase.IDLE or (self.phase is Phase.RESIDENT and self.prepared):
            self.attempt = planned.attempt or self.attempt

    @property
    def state(self) -> VersionState:
        """Where it is."""
        if self.phase is Phase.UNLOADING:
            return VersionState.UNLOADING
        if self.resident is not None:
            return self.resident.state
        return VersionState.WAITING if self.fetching is None else VersionState.FETCHING

    @property
    def prepared(self) -> bool:
        """Whether it may answer."""
        return self.state is VersionState.PREPARED

    @property
    def proven(self) -> bool:
        """Whether it was tried with what the plan asks of it now."""
        return demand_of(self.planned) in {None, self.samples}

    @property
    def message(self) -> str:
        """Why it may not; empty when there is nothing to say."""
        if self.state is VersionState.FETCHING:
            return f"its files are being fetched: {self.fetching:.0%} is there"
        failure = (self.resident.failure if self.resident is not None else None) or self.failure
        return failure.message if failure is not None and not self.prepared else ""

    def enter(self, *, explicit: bool) -> None:
        """A request is admitted."""
        if explicit:
            self.waiting_explicit += 1
        else:
            self.waiting += 1
        self.idle.clear()

    def leave(self, *, explicit: bool) -> None:
        """It is answered, or given back."""
        if explicit:
            self.waiting_explicit -= 1
        else:
            self.waiting -= 1
        if not self.waiting and not self.waiting_explicit:
            self.idle.set()

    def held(self) -> Held[Slot]:
        """As the router sees it."""
        return Held(self.key.version, self.key.digest, self.prepared, self.was_prepared, self)

    def view(self, *, routed: bool, now: float) -> View:
        """As the order of actions sees it."""
        return View(self.key, self.phase, routed, self.samples, self.attempt, due=self.retry_at <= now)

    def report(self) -> VersionReport:
        """What the operator is told of it."""
        counters = self.meter.counters()
        if self.resident is None:
            return VersionReport(
                version=self.key.version,
                state=self.state,
                failure=self.failure,
                progress=self.fetching,
                counters=counters,
            )
        report = self.resident.report()
        # Prepared means to the operator: it passed the samples of the plan that is followed.
        state = self.state if self.proven or not self.prepared else VersionState.WAITING
        if state is VersionState.FAILED and self.planned.attempt not in {0, self.attempt}:
            # A verdict of an earlier attempt, which was cleared: it is about to be tried anew.
            return report.model_copy(update={"state": VersionState.WAITING, "failure": None, "counters": counters})
        failure = report.failure or (self.failure if not self.prepared else None)
        return report.model_copy(update={"state": state, "failure": failure, "counters": counters})


class Place:
    """A request's place in a version's queue: given back once, however often that is asked for."""

    __slots__ = ("answered_by", "explicit", "given_back", "slot")

    def __init__(self, slot: Slot, *, explicit: bool) -> None:
        self.slot = slot
        self.explicit = explicit
        self.given_back = False
        self.answered_by: Admission | None = None
        """Another version that answered instead."""
        slot.enter(explicit=explicit)

    def give_back(self) -> None:
        """The request is answered, or won't be run."""
        if not self.given_back:
            self.given_back = True
            self.slot.leave(explicit=self.explicit)


@dataclass(eq=False)
class Ticket(Admission):
    """An admission as the host gives it out."""

    place: Place
    deadline: float
    """By `time.monotonic`: the event loop's clock is too coarse to measure a request by."""
