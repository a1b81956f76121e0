"""One server: look, decide, write, and only then tell anybody."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from windlass_contract.model_version import ModelVersionStatus
from windlass_contract.plan import ServingPlan
from windlass_contract.record import PodTemplate, RolloutRecordSet, ServerState, Verdict
from windlass_operator.control.hub import Hub
from windlass_operator.engine.interface import Event, Observation, Outcome, SeenReport
from windlass_operator.metrics import Metrics

from .aside import Aside
from .durable import DamagedStateError, DurableStore, HoldLostError, StoreConflictError, StoreError
from .people import People, newly_stalled
from .view import ServerView

CONFIRM_SECONDS = 1.0
"""At least so often the hold and the durable object are confirmed, and time passes in the record."""
REST_CONFIRM_SECONDS = 2.0
"""The same while the server rests; well below the time for which a confirmation is good."""
REST_SECONDS = 30.0
"""So long a server is only confirmed while nobody has news of it, nobody falls silent and no clock runs: with many
servers the passes are most of what an idle operator does."""
_ATTEMPTS = 5
"""Of one pass, when others write in between."""


@dataclass(frozen=True)
class Tools:
    """What the workers of one operator share."""

    store: DurableStore
    hub: Hub
    reconcile: Callable[[Observation], Outcome]
    view: Callable[[str], ServerView]
    people: People
    metrics: Metrics
    holds: Callable[[], bool]
    """Whether this operator is still the one that acts."""
    acting_since: float
    restart: Callable[[str, PodTemplate], Awaitable[None]] | None = None
    """Changes the template of a server's replicas; None: there are no templates."""
    clock: Callable[[], float] = time.monotonic


class ServerWorker:
    """The passes over one server, one after the other; `wake` asks for the next."""

    def __init__(self, key: str, tools: Tools) -> None:
        self.key = key
        """Names the server among all of this operator."""
        self.server = key.rpartition("/")[2]
        """Its name, as its replicas know it; on a cluster the key has the namespace before it."""
        self._tools = tools
        self._log = structlog.get_logger("windlass.reconcile").bind(server=key)
        self._wake = asyncio.Event()
        self._generation: str | None = None
        """Of the durable object as last read or written; None: not read yet."""
        self._record: RolloutRecordSet | None = None
        self._plan: ServingPlan | None = None
        self._previous_pass: float | None = None
        self._rests_until: float = 0.0
        self._subscribed = 0
        """How many were subscribed at the last pass; by itself nobody says that he has fallen silent."""
        self._remarks: tuple[str, ...] = ()
        self._decided: Mapping[str, ModelVersionStatus] | None = None
        """The statuses of the pass before; what has stalled since is an event."""
        self._aside = Aside(self.tell)
        # What people are to be told. A disk that hangs doesn't make it grow: events come with a durable write.
        self._statuses: Mapping[str, ModelVersionStatus] | None = None
        self._reports: tuple[SeenReport, ...] | None = None
        self._events: list[tuple[datetime, Event]] = []

    def wake(self) -> None:
        """Something changed: look soon."""
        self._wake.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Passes until `stopping`, and until all that follows from them is told. Raises `HoldLostError`."""
        telling = asyncio.create_task(self._aside.run())
        try:
            while not stopping.is_set():
                woken = self._wake.is_set()
                self._wake.clear()
                pause = await self._pass(woken)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
            self._aside.close()
            await telling
        finally:
            telling.cancel()

    async def _pass(self, woken: bool) -> float:
        """One pass that survives what can go wrong, or less if it can rest; returns the seconds until the next."""
        metrics = self._tools.metrics
        try:
            if not woken and self._rests() and await self._confirmed():
                return self._until_beat(REST_CONFIRM_SECONDS)
            with metrics.reconcile_seconds.labels(self.key).time():
                outcome = await self.reconcile()
        except StoreError as error:
            # Not confirmed any more: in a few seconds the endpoint answers 503, and replicas go on with what they have.
            self._log.error("store.failed", error=str(error), retry_seconds=CONFIRM_SECONDS)
            metrics.reconciles.labels(self.key, "failed").inc()
            return CONFIRM_SECONDS
        except HoldLostError:
            raise
        except Exception:  # noqa: BLE001 - as the comment says
            # A fault of ours with this server must not stop the passes over the others.
            self._log.exception("reconcile.failed", retry_seconds=CONFIRM_SECONDS)
            metrics.reconciles.labels(self.key, "failed").inc()
            return CONFIRM_SECONDS
        metrics.subscribed.labels(self.key).set(self._subscribed)
        if outcome is None:
            return CONFIRM_SECONDS
        if outcome.revisit_after is None:
            if not woken:  # else the next pass still tells what came too soon after other news
                self._rests_until = self._tools.clock() + REST_SECONDS
            return self._until_beat(CONFIRM_SECONDS if woken else REST_CONFIRM_SECONDS)
        return max(0.0, min(outcome.revisit_after, CONFIRM_SECONDS))

    def _until_beat(self, every: float) -> float:
        """Seconds until the next confirmation. All servers' come at the same moment, and find warm processor caches."""
        return every - self._tools.clock() % every

    def _rests(self) -> bool:
        """Whether nothing can have changed since the last pass that a pass would see."""
        return self._tools.clock() < self._rests_until and self._tools.hub.subscribed(self.key) == self._subscribed

    async def reconcile(self) -> Outcome | None:
        """One pass, level-triggered; None: others wrote in between again and again. Raises `StoreError`,
        `HoldLostError`.
        """
        tools = self._tools
        for _ in range(_ATTEMPTS):
            await self._read()
            now, self._rests_until = tools.clock(), 0.0
            self._subscribed = tools.hub.subscribed(self.key)
            view = tools.view(self.key)
            observation = self._observe(view, now)
            outcome = tools.reconcile(observation)
            if outcome.write:
                try:
                    await self._write(outcome)
                except StoreConflictError as conflict:
                    tools.metrics.conflicts.labels(self.key).inc()
                    tools.metrics.reconciles.labels(self.key, "conflict").inc()
                    self._log.warning("store.conflict", error=str(conflict))
                    continue
            tools.metrics.reconciles.labels(self.key, "written" if outcome.write else "unchanged").inc()
            self._previous_pass = now
            self._record = outcome.record
            self._publish(outcome, view, observation)
            if outcome.template is not None and tools.restart is not None:
                await tools.restart(self.key, outcome.template)
            return outcome
        return None

    def _observe(self, view: ServerView, now: float) -> Observation:
        tools = self._tools
        return Observation(
            server=self.server,
            model_versions=view.model_versions,
            record=self._record,
            plan=self._plan,
            reports=tools.hub.reports(self.key),
            replicas=view.replicas,
            template=view.template,
            decisions=view.decisions,
            elapsed=0.0 if self._previous_pass is None else max(0.0, now - self._previous_pass),
            uptime=max(0.0, now - tools.acting_since),
            frozen=view.frozen,
        )

    async def _read(self) -> None:
        """Confirms that the durable object is the one we know, else reads what is there now."""
        tools = self._tools
        if await self._confirmed():
            return
        if self._generation is not None:
            self._log.warning("store.changed", reason="deleted, edited or put back by somebody else; read anew")
            tools.hub.withhold(self.key)
        try:
            stored = await tools.store.read(self.key)
        except DamagedStateError as error:
            aside = await tools.store.put_aside(self.key)
            self._log.error(
                "store.damaged",
                error=str(error),
                put_aside=aside,
                remedy="it is rebuilt from what replicas report",
            )
            stored = await tools.store.read(self.key)
        self._generation = stored.generation
        self._record = stored.state.record if stored.state else None
        self._plan = stored.state.plan if stored.state else None
        tools.hub.confirm(self.key)

    async def _confirmed(self) -> bool:
        """Confirms that the hold is ours, and the durable object the one we know. Raises `HoldLostError`."""
        tools = self._tools
        if not tools.holds():
            raise HoldLostError(f"the hold isn't there any more; server {self.key} is left alone")
        age = None if self._generation is None else await tools.store.age(self.key, self._generation)
        if age is not None:
            tools.hub.confirm(self.key, age)
        return age is not None

    async def _write(self, outcome: Outcome) -> None:
        """Writes plan and record in one go. Raises `StoreConflictError`, `StoreError`."""
        state = ServerState(server=self.server, plan=outcome.plan, record=outcome.record)
        before = self._generation or ""
        try:
            self._generation = await self._tools.store.write(self.key, state, before)
        except (StoreConflictError, StoreError):
            # Whether anything was written isn't known: read before the next try.
            self._generation = None
            raise
        self._count_rollouts(outcome.record)
        self._plan = outcome.plan
        self._tools.metrics.writes.labels(self.key).inc()
        self._tools.hub.confirm(self.key)
        self._log.info("plan.written", **_summary(outcome.plan))

    def _publish(self, outcome: Outcome, view: ServerView, observation: Observation) -> None:
        """After the acknowledged write: subscribers at once, people by `tell`."""
        tools = self._tools
        tools.hub.offer_samples(self.key, view.samples)
        stalls: list[Event] = []
        if outcome.gathering:
            tools.hub.withhold(self.key)
        else:
            tools.hub.publish(self.key, outcome.plan, outcome.renewed, quiet=outcome.revisit_after is None)
            self._statuses = outcome.statuses  # until then there are none
            stalls = newly_stalled(self._decided, outcome.statuses, outcome.events)
            self._decided = outcome.statuses
        if outcome.plan is not None:
            tools.metrics.epoch.labels(self.key).set(outcome.plan.epoch)
        tools.metrics.frozen.labels(self.key).set(bool(view.frozen))
        self._show_orphans(observation, outcome.record)
        self._reports = observation.reports
        remarks = tuple(
            Event("", "Normal", "Remark", remark) for remark in outcome.remarks if remark not in self._remarks
        )
        self._remarks = outcome.remarks
        at = datetime.now(UTC)
        for event in (*outcome.events, *stalls, *remarks):
            say = self._log.warning if event.type == "Warning" else self._log.info
            say("rollout.event", model_version=event.model_version, reason=event.reason, message=event.message)
            self._events.append((at, event))
        self._aside.ask()

    async def tell(self) -> None:
        """Writes what people weren't told yet: the newest statuses, then every event up to them, in order."""
        tools = self._tools
        statuses, self._statuses = self._statuses, None
        reports, self._reports = self._reports, None
        events, self._events = self._events, []
        if statuses is not None:
            await tools.people.show_statuses(self.key, statuses)
        if reports is not None:
            await tools.people.show_reports(self.key, reports)
        for at, group in itertools.groupby(events, key=lambda each: each[0]):
            await tools.people.tell(self.key, [event for _, event in group], at)

    def _count_rollouts(self, record: RolloutRecordSet | None) -> None:
        before = self._record.models if self._record else {}
        for name, model in (record.models if record else {}).items():
            known = [_verdict_key(verdict) for verdict in before[name].verdicts] if name in before else []
            for verdict in model.verdicts:
                if _verdict_key(verdict) not in known:
                    self._tools.metrics.rollouts.labels(self.key, name, verdict.outcome).inc()

    def _show_orphans(self, observation: Observation, record: RolloutRecordSet | None) -> None:
        present = {
            (each.model_version.spec.model, each.model_version.spec.version) for each in observation.model_versions
        }
        for name, model in (record.models if record else {}).items():
            orphan = model.committed is not None and (name, model.committed.version) not in present
            self._tools.metrics.orphans.labels(self.key, name).set(orphan)


def _verdict_key(verdict: Verdict) -> object:
    return (verdict.version, verdict.digest, verdict.outcome, verdict.epoch)


def _summary(plan: ServingPlan | None) -> dict[str, object]:
    """A plan in a few words, for the log."""
    if plan is None:
        return {"epoch": None}
    models = {
        name: {
            role: getattr(model, role)
            for role in ("committed", "previous", "candidate")
            if getattr(model, role) is not None
        }
        | {f"revision {revision}": planned.version for revision, planned in model.revisions.items()}
        for name, model in plan.models.items()
    }
    return {"epoch": plan.epoch, "models": models}
