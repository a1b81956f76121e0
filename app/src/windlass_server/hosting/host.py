"""Makes a serving plan true in this process, and admits requests to what is resident.

Everything here runs in the event loop's thread. `_changed` is the one place where the routing table is made and
actions are begun; it is called after every change: a new plan, a resident's new state, an action's end, a timer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.plan import PlannedVersion, ServingPlan
from windlass_contract.report import ModelReport, ServingReport, VersionState
from windlass_contract.samples import AcceptanceSamples
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.answering import Answering
from windlass_server.hosting.breaker import Breakers
from windlass_server.hosting.fetcher_watch import FetcherWatch, NotFetchedError
from windlass_server.hosting.hosting import Admission, VersionStatus
from windlass_server.hosting.memory_watch import Occupant, Standing
from windlass_server.hosting.meter import Meter
from windlass_server.hosting.model_reports import model_report
from windlass_server.hosting.order import Key, Phase, Prepare, keys_of, next_actions
from windlass_server.hosting.router import (
    RETRY_AFTER_SECONDS,
    WHOLE,
    Held,
    ModelRoutes,
    RoutedBy,
    RoutingTable,
    route_model,
)
from windlass_server.hosting.slot import HeldResident, Order, Place, Slot, Ticket
from windlass_server.hosting.tasks import Tasks
from windlass_server.tensors import Tensor

log = structlog.get_logger(__name__)

MakeResident = Callable[[Order, Callable[[], None]], HeldResident]
"""Makes what will hold a version; it calls back after each change of its state."""

FetchSamples = Callable[[str], Awaitable[AcceptanceSamples]]
"""Acceptance samples by digest. Raises `SamplesUnavailable`."""

RETRY_FIRST_SECONDS = 1.0
RETRY_LAST_SECONDS = 30.0


class SamplesUnavailable(Exception):  # noqa: N818 - named as the reason in reports is
    """Acceptance samples can't be had now: why, for people."""


@dataclass(frozen=True)
class HostSettings:
    """Bounds of a host."""

    models: Path
    """Folder of models: `<model>/<version>/`."""
    queue_length: int = 256
    """Requests that wait or run per version, those that name it not counted."""
    explicit_queue_length: int = 32
    """Requests that wait or run per version and name it."""
    request_deadline: float = 30.0
    """Seconds from admission to answer."""


class Host:
    """Implements `Hosting`. Belongs to the thread of the running event loop."""

    def __init__(
        self,
        identity: tuple[str, str, str],
        settings: HostSettings,
        make_resident: MakeResident,
        fetch_samples: FetchSamples,
        on_change: Callable[[], None] = lambda: None,
        fetcher: FetcherWatch | None = None,
        revision: str = "",
    ) -> None:
        """`identity`: server, replica and instance. `on_change` is called after each change of plan, state or routes,
        and must not call back into the host's `apply`. `fetcher`: who brings files that are not there. `revision`: of
        the Pod template."""
        self.server, self.replica, self.instance = identity
        self.settings = settings
        self._make_resident = make_resident
        self._fetch_samples = fetch_samples
        self.on_change = on_change
        self._fetcher = fetcher
        self._revision = revision
        self._told: ServingPlan | None = None
        self._plan: ServingPlan | None = None
        """What of the plan is for this replica's revision."""
        self._table: RoutingTable[Slot] = RoutingTable()
        self._routed_by: dict[str, RoutedBy[Slot]] = {}
        """By model: what its routes in the table were made of."""
        self._slots: dict[Key, Slot] = {}
        self.meters: dict[Key, Meter] = {}
        """Of versions held since the start; kept for a while when one is unloaded, so that counters don't fall back."""
        self._leases: dict[str, float] = {}
        self._tasks = Tasks(self._changed)
        self._breakers = Breakers()
        self._answering = Answering(
            self._breakers, settings.queue_length, lambda: self._table, self._breaker_opened, self._tasks.spawn
        )
        self._sequence = 0
        self._begun = False
        self._closing = False

    # --- the plan ---

    @property
    def plan(self) -> ServingPlan | None:
        """The plan that is being made true."""
        return self._told

    @property
    def followed(self) -> ServingPlan | None:
        """The plan as replicas of this one's revision have to follow it."""
        return self._plan

    @property
    def held_back(self) -> frozenset[str]:
        """Models that replicas of this one's revision don't answer for yet, although others may."""
        told = self._told.models.items() if self._told is not None else ()
        entries = {name: model.revisions.get(self._revision) for name, model in told}
        return frozenset(name for name, entry in entries.items() if entry is not None and not entry.weight)

    @property
    def table(self) -> RoutingTable[Slot]:
        """The routing as it is now."""
        return self._table

    @property
    def slots(self) -> Mapping[Key, Slot]:
        """What is held."""
        return self._slots

    def apply(self, plan: ServingPlan) -> None:
        """Takes a plan whose epoch is higher than the present one's. Raises `ValueError` for any other."""
        if self._plan is not None and plan.epoch <= self._plan.epoch:
            raise ValueError(f"plan {plan.epoch} doesn't follow plan {self._plan.epoch}")
        self._told, self._plan = plan, plan.of_revision(self._revision)
        self._leases.clear()
        self._breakers.follow(self._plan)
        log.info("plan taken", epoch=plan.epoch, digest=plan.digest)
        self._changed()

    def renew(self, epoch: int, models: list[str]) -> None:
        """Renews the lease of these models' candidates, if `epoch` is the present plan's."""
        if self._plan is None or epoch != self._plan.epoch:
            return
        now = asyncio.get_running_loop().time()
        for name in models:
            model = self._plan.models.get(name)
            if model is not None and model.lease_seconds is not None:
                regained = self._leases.get(name, 0.0) <= now
                self._leases[name] = now + model.lease_seconds
                self._tasks.later(f"lease {name}", model.lease_seconds)
                if regained:
                    self._changed()

    def begin(self) -> None:
        """From now on versions are loaded. Before, a plan is only held, and reported."""
        self._begun = True
        self._changed()

    async def close(self) -> None:
        """Unloads everything once what was admitted is answered. Nothing is admitted any more."""
        self._closing = True
        self._tasks.cancel_timers()
        self._table = RoutingTable(epoch=self._table.epoch)
        for slot in list(self._slots.values()):
            if slot.phase is not Phase.UNLOADING:
                self._begin_unload(slot)
        await self._tasks.ended()

    def _changed(self) -> None:
        """Brings slots, routes and actions in line with plan and states."""
        plan = self._plan
        if plan is None or self._closing:
            return
        for key, planned in keys_of(plan).items():
            slot = self._slots.get(key)
            if slot is None:
                self._slots[key] = self._new_slot(key, planned)
            else:
                slot.follow(planned)
        for slot in self._slots.values():
            slot.was_prepared = slot.was_prepared or slot.prepared
            if slot.phase is Phase.RESIDENT and slot.state is VersionState.FAILED:
                slot.phase = Phase.FAILED
        self._table = self._route(plan)
        now = asyncio.get_running_loop().time()
        routed = {id(held.target) for routes in self._table.models.values() for held, _ in routes.weights}
        views = [slot.view(routed=id(slot) in routed, now=now) for slot in self._slots.values()]
        actions = next_actions(plan, views) if self._begun else []
        for action in actions:
            slot = self._slots[action.key]
            if isinstance(action, Prepare):
                slot.phase = Phase.PREPARING
                slot.task = self._tasks.spawn(self._prepare(slot))
            else:
                self._begin_unload(slot)
        if actions:
            self._table = self._route(plan)
        self.on_change()

    def _route(self, plan: ServingPlan) -> RoutingTable[Slot]:
        """Anew for each model that something changed of: there may be hundreds, and each of them changes a dozen times
        while it is prepared."""
        now = asyncio.get_running_loop().time()
        held: dict[str, list[Held[Slot]]] = {}
        for slot in self._slots.values():
            held.setdefault(slot.key.model, []).append(slot.held())
        broken = frozenset(key.digest for key in self._breakers.open)
        models: dict[str, ModelRoutes[Slot]] = {}
        routed: dict[str, RoutedBy[Slot]] = {}
        for name, model in plan.models.items():
            by = RoutedBy(model, held.get(name, []), lease_held=self._leases.get(name, 0.0) > now, broken=broken)
            before = self._table.models.get(name)
            routed[name] = by
            if before is not None and by.same_as(self._routed_by.get(name)):
                models[name] = before
                continue
            models[name] = route_model(model, by.held, before, lease_held=by.lease_held, broken=broken)
            if before is None or before.serving() != models[name].serving():
                log.info("routes changed", model=name, epoch=plan.epoch, serving=models[name].serving())
        self._routed_by = routed
        return RoutingTable(plan.epoch, models)

    def _breaker_opened(self, slot: Slot) -> None:
        """Traffic goes to the version before at once; roles stay as the plan has them."""
        why = self._breakers.open[slot.key].message
        log.error("breaker opened", model=slot.key.model, version=slot.key.version, reason=why)
        self._changed()

    # --- memory ---

    def occupants(self) -> list[Occupant]:
        """See `MemoryWatch`."""
        found = []
        for slot in self._slots.values():
            footprint = slot.resident.footprint() if slot.resident is not None else None
            if footprint is not None and slot.phase is not Phase.UNLOADING:
                found.append(Occupant(slot.key, self._standing(slot), footprint))
        return found

    async def evict(self, key: Key, why: str, *, own_fault: bool) -> None:
        """See `MemoryWatch`. What took too much from clients' requests gets none any more, if another can have them."""
        slot = self._slots[key]
        if slot.resident is None:
            return
        if own_fault and slot.prepared and self._answering.other_than(slot) is not None:
            message = f"while it served, {why}"
            failure = Failure(gate=Gate.LOAD, reason=Reason.WONT_FIT, message=message[:2000])
            if self._breakers.trip(key, failure):
                self._breaker_opened(slot)
        await slot.resident.evict(why, own_fault=own_fault)

    def _standing(self, slot: Slot) -> Standing:
        model = self._plan.models.get(slot.key.model) if self._plan is not None else None
        planned = keys_of(self._plan).get(slot.key) if self._plan is not None else None
        is_candidate = planned is not None and model is not None and planned.version == model.candidate
        if is_candidate or not slot.was_prepared:
            return Standing.CANDIDATE
        routes = self._table.models.get(slot.key.model, ModelRoutes())
        serves = any(held.target is slot for held, _ in routes.weights)
        return Standing.SERVING if serves or (planned is not None and planned.weight > 0) else Standing.SPARE

    # --- actions ---

    async def _prepare(self, slot: Slot) -> None:
        """Brings a version up; it ends as Resident, Failed or, to be tried again, Idle."""
        try:
            if slot.resident is None:
                slot.resident = self._make_resident(await self._order(slot), self._changed)
            slot.failure, slot.fetching = None, None
            await slot.resident.prepare()
        except NotFetchedError as error:
            slot.failure, slot.fetching = error.failure, error.progress
            self._again(slot, RETRY_FIRST_SECONDS)
            return
        except SamplesUnavailable as error:
            slot.failure = Failure(gate=Gate.ACCEPTANCE, reason=Reason.SAMPLES_UNAVAILABLE, message=str(error)[:2000])
        except Exception as error:
            # A fault of this program, not of the version: reported, tried again, and others get their turn.
            log.exception("preparing broke", version=str(slot.key))
            message = f"this replica couldn't prepare it: {type(error).__name__}: {error}"
            slot.failure = Failure(gate=Gate.LOAD, reason=Reason.RUNTIME_UNAVAILABLE, message=message[:2000])
        if slot.phase is not Phase.PREPARING:
            return
        about = {"model": slot.key.model, "version": slot.key.version}
        match slot.state:
            case VersionState.PREPARED:
                slot.phase, slot.attempts = Phase.RESIDENT, 0
                log.info("version prepared", **about)
            case VersionState.FAILED:
                slot.phase = Phase.FAILED
                log.error("version failed", reason=slot.message, **about)
            case _:
                delay = min(RETRY_FIRST_SECONDS * 2.0**slot.attempts, RETRY_LAST_SECONDS)
                slot.attempts += 1
                log.warning("version waits", reason=slot.message, retry_seconds=delay, **about)
                self._again(slot, delay)
                return
        self._changed()

    def _again(self, slot: Slot, delay: float) -> None:
        """Its turn may come again after `delay` seconds."""
        if slot.phase is Phase.PREPARING:
            slot.phase = Phase.IDLE
            slot.retry_at = asyncio.get_running_loop().time() + delay
            self._tasks.later(f"retry {slot.key}", delay)
            self._changed()

    async def _order(self, slot: Slot) -> Order:
        if self._fetcher is not None:
            await self._fetcher.arrived(slot.key, slot.planned)
        reference = slot.planned.samples
        samples = await self._fetch_samples(reference.digest) if reference is not None else None
        path = self.settings.models / (slot.planned.path or f"{slot.key.model}/{slot.key.version}")
        return Order(slot.key, path, samples, reference.min_score if reference is not None else WHOLE)

    def _new_slot(self, key: Key, planned: PlannedVersion) -> Slot:
        meter = self.meters.setdefault(key, Meter())
        meter.unheld_since = None
        return Slot(key, planned, meter)

    def _forget(self, slot: Slot) -> None:
        del self._slots[slot.key]
        slot.meter.unheld_since = asyncio.get_running_loop().time()

    def _begin_unload(self, slot: Slot) -> None:
        preparing = slot.task if slot.phase is Phase.PREPARING else None
        slot.phase = Phase.UNLOADING
        if slot.resident is None and preparing is None:
            self._forget(slot)
            asyncio.get_running_loop().call_soon(self._changed)
            return
        self._tasks.spawn(self._unload(slot, preparing))

    async def _unload(self, slot: Slot, preparing: asyncio.Task[None] | None) -> None:
        """Ends the preparation if there is one, lets requests finish, and frees the memory."""
        if preparing is not None:
            preparing.cancel()
            await asyncio.wait([preparing])
        try:
            # A request can't outlast its deadline; the second covers one that is just being answered.
            async with asyncio.timeout(self.settings.request_deadline + 1):
                await slot.idle.wait()
        except TimeoutError:
            log.warning("requests were still open at unload", version=str(slot.key), open=slot.waiting)
        if slot.resident is not None:
            await slot.resident.unload()
        self._forget(slot)
        log.info("version unloaded", model=slot.key.model, version=slot.key.version)
        self._changed()

    # --- requests ---

    def models(self) -> list[str]:
        """See `Hosting`."""
        return sorted(self._plan.models) if self._plan is not None else []

    def versions(self, model: str) -> list[VersionStatus]:
        """See `Hosting`."""
        routes = self._table.models.get(model)
        if routes is None:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {model}")
        slots = [slot for slot in self._slots.values() if slot.key.model == model]
        return [
            VersionStatus(slot.key.version, slot.state, slot.message, slot.key.version in routes.reachable)
            for slot in sorted(slots, key=lambda slot: -slot.key.version)
        ]

    def labels(self, model: str) -> Mapping[str, int]:
        """See `Hosting`."""
        routes = self._table.models.get(model)
        return routes.labels if routes is not None else {}

    def admit(self, model: str, *, version: int | None = None, label: str | None = None) -> Admission:
        """See `Hosting`."""
        if self._closing:
            raise ServingError(Code.UNAVAILABLE, "This replica is stopping", retry_after=RETRY_AFTER_SECONDS)
        explicit = version is not None or label is not None
        table = self._table
        # Sticky assignment will give the point from a hash of the request's key.
        held = table.choose(model, version=version, label=label, point=int(random.random() * WHOLE))  # noqa: S311
        slot = held.target
        waiting, bound = (
            (slot.waiting_explicit, self.settings.explicit_queue_length)
            if explicit
            else (slot.waiting, self.settings.queue_length)
        )
        if waiting >= bound:
            slot.meter.refuse(Code.RESOURCE_EXHAUSTED)
            raise ServingError(
                Code.RESOURCE_EXHAUSTED,
                f"{waiting} requests wait for version {held.version} of model {model} already; try again",
                retry_after=RETRY_AFTER_SECONDS,
            )
        resident = slot.resident
        if resident is None or resident.manifest is None:
            raise ServingError(Code.INTERNAL, f"Version {held.version} of model {model} is routed without a manifest")
        return Ticket(
            model=model,
            version=held.version,
            digest=held.digest,
            epoch=table.epoch,
            explicit=explicit,
            manifest=resident.manifest,
            signatures=resident.signatures,
            place=Place(slot, explicit=explicit),
            deadline=time.monotonic() + self.settings.request_deadline,
        )

    def infer(
        self, admission: Admission, signature: str, inputs: Mapping[str, Tensor], outputs: list[str] | None = None
    ) -> Coroutine[Any, Any, dict[str, Tensor]]:
        """See `Hosting`."""
        return self._answering.answer(_ticket(admission), signature, inputs, outputs)

    def answered_by(self, admission: Admission) -> Admission:
        """See `Hosting`."""
        return _ticket(admission).place.answered_by or admission

    def release(self, admission: Admission) -> None:
        """See `Hosting`."""
        _ticket(admission).place.give_back()

    # --- what is told of it ---

    @property
    def open_breakers(self) -> Mapping[Key, Failure]:
        """Versions whose traffic was taken away, and why."""
        return self._breakers.open

    def forget_meters(self, before: float) -> None:
        """Drops what was counted for versions that are not held since `before`, on the event loop's clock."""
        for key, meter in list(self.meters.items()):
            if meter.unheld_since is not None and meter.unheld_since < before:
                del self.meters[key]

    def stuck(self) -> tuple[str, ...]:
        """Workers that have a request and don't answer it, each in a sentence."""
        return tuple(
            f"the worker of version {slot.key.version} of model {slot.key.model} doesn't answer"
            for slot in self._slots.values()
            if slot.resident is not None and slot.resident.stuck
        )

    def report(self, *, ready: bool, draining: bool, plan_conflict: bool) -> ServingReport:
        """What is true now; each has a higher sequence than the one before."""
        self._sequence += 1
        return ServingReport(
            server=self.server,
            replica=self.replica,
            instance=self.instance,
            sequence=self._sequence,
            plan=self._told,
            revision=self._revision,
            plan_conflict=plan_conflict,
            ready=ready,
            draining=draining,
            fetches=list(self._fetcher.schemes) if self._fetcher is not None else [],
            models=self.model_reports(),
        )

    def model_reports(self) -> dict[str, ModelReport]:
        """Every model that is planned or held."""
        names = sorted(set(self.models()) | {key.model for key in self._slots})
        planned = keys_of(self._plan) if self._plan is not None else {}
        slots, breakers = self._slots.values(), self._breakers.open
        none: ModelRoutes[Slot] = ModelRoutes()
        return {
            name: model_report(name, slots, self._table.models.get(name, none), planned, breakers) for name in names
        }


def _ticket(admission: Admission) -> Ticket:
    if not isinstance(admission, Ticket):
        raise TypeError("an admission of another host")
    return admission
