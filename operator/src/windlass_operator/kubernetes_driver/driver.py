"""The Kubernetes driver: one Lease that says who acts, one cache of the cluster, one worker per server."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import kopf
import structlog

from windlass_contract.record import PodTemplate
from windlass_operator.control.hub import Hub
from windlass_operator.driving.durable import HoldLostError
from windlass_operator.driving.server_worker import ServerWorker, Tools
from windlass_operator.driving.view import ServerView
from windlass_operator.engine.interface import Event, Observation, Outcome
from windlass_operator.metrics import Metrics

from .api import CONFLICT, STRATEGIC_PATCH, Api, ApiError, single
from .authority import RENEW_SECONDS as CERTIFICATE_SECONDS
from .authority import Authority
from .cluster import Cluster, Seen
from .lease import RENEW_SECONDS, Lease
from .objects import SeenPod, deployment_of, template_patch
from .samples import SamplesOfConfigMaps
from .seeing import Sight, wait_for
from .store import ConfigMapStore
from .telling import SPEC_INVALID, ClusterPeople

TEND_SECONDS = 1.0
"""Between looks at samples, the CA's ConfigMaps and the health of the watch, when nothing asks for one."""
STUCK_SECONDS = 60.0
"""After which a driver that doesn't come round, or watches nothing, isn't live."""


@dataclass
class _Running:
    worker: ServerWorker
    stop: asyncio.Event
    task: asyncio.Task[None]


class KubernetesDriver:
    """Drives the rollout engine from the ModelVersions of some namespaces; None: of all."""

    def __init__(
        self,
        api: Api,
        info: kopf.ConnectionInfo,
        lease: Lease,
        hub: Hub,
        reconcile: Callable[[Observation], Outcome],
        metrics: Metrics,
        *,
        namespaces: tuple[str, ...] | None = None,
        authority: Authority | None = None,
        no_restarts: str = "",
    ) -> None:
        self._api = api
        self._info = info
        self.lease = lease
        self._hub = hub
        self._reconcile = reconcile
        self._metrics = metrics
        self._asked = namespaces
        self._authority = authority
        self._no_restarts = no_restarts
        """Why Pod templates can't be changed; empty: they can."""
        self._log = structlog.get_logger("windlass.kubernetes")
        self._turned = time.monotonic()
        self._forget()
        hub.on_news = self._wake

    def _forget(self) -> None:
        """Begins anew: nothing of a time when another acted is trusted."""
        self._acting = False
        self._cluster = Cluster()
        self._store = ConfigMapStore(self._api)
        self._samples = SamplesOfConfigMaps(self._api)
        self._people = ClusterPeople(self._api, self._cluster, self.lease.identity)
        self._running: dict[str, _Running] = {}
        self._views: dict[str, ServerView] = {}
        self._dirty: set[str] = set()
        self._changed = asyncio.Event()
        self._sight = Sight(self._api, self._info, self._cluster, self._store, self._metrics, self._asked, self._touch)
        self._said: set[tuple[str, str]] = set()

    # Who acts.

    async def run(self, stop: asyncio.Event, on_acting: Callable[[], Awaitable[None]]) -> None:
        """Acts whenever it holds the Lease, until `stop`. `on_acting` is called first each time."""
        certificates = asyncio.create_task(self._keep_certificate())
        try:
            while await self._acquire(stop):
                await on_acting()
                try:
                    await self._act(stop)
                finally:
                    self._acting = False
                    self._metrics.acting.set(0)
                    self._hub.rest("this operator doesn't act: it stops, or another one took over")
            with contextlib.suppress(ApiError):
                await self.lease.release()
        finally:
            certificates.cancel()

    def acting(self) -> bool:
        """Whether it is the one that acts, and turns."""
        return self._acting and self.lease.held() and self.turning()

    def turning(self) -> bool:
        """Whether its loop came round lately; and its watch, if it acts."""
        now = time.monotonic()
        return now - self._turned < STUCK_SECONDS and (not self._acting or now - self._sight.well_at < STUCK_SECONDS)

    def pods(self) -> Seen[SeenPod] | None:
        """The Pods of servers; None: this operator doesn't act."""
        return self._cluster.pods if self._acting else None

    async def _acquire(self, stop: asyncio.Event) -> bool:
        """Waits for the Lease; False: asked to stop before."""
        said = ""
        while not stop.is_set():
            self._turned = time.monotonic()
            try:
                if await self.lease.attempt():
                    return True
                why = f"another operator acts: {self.lease.holder}"
            except ApiError as error:
                why = str(error)
            if why != said:
                self._log.info("lease.waiting", reason=why, effect="standing by")
                said = why
            self._hub.rest(f"this operator stands by; {why}")
            await wait_for(stop, RENEW_SECONDS)
        return False

    async def _act(self, stop: asyncio.Event) -> None:
        self._forget()
        self._hub.act()
        self._tools = Tools(
            store=self._store,
            hub=self._hub,
            reconcile=self._reconcile,
            view=lambda key: self._views[key],
            people=self._people,
            metrics=self._metrics,
            holds=self.lease.held,
            acting_since=time.monotonic(),
            restart=self._restart,
        )
        stopping = asyncio.Event()
        tasks: list[asyncio.Task[Any]] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks += (group.create_task(work(stopping)) for work in (self._confirm, self._see, self._tend))
                tasks.append(group.create_task(self._settle(stopping, group)))
                group.create_task(self._end(stop, stopping, tasks))
        except* HoldLostError as errors:
            self._log.error("lease.lost", error=str(errors.exceptions[0]))
            # Before Python 3.13 the group leaves this task marked as one that is being cancelled, and before 3.11.4 the
            # next timeout takes that for its own and ends the operator.
            current = asyncio.current_task()
            assert current is not None
            current.uncancel()
        finally:
            await self._sight.stop()

    async def _end(self, stop: asyncio.Event, stopping: asyncio.Event, tasks: list[asyncio.Task[Any]]) -> None:
        """Lets every worker finish what it is at, a write above all."""
        await stop.wait()
        stopping.set()
        for running in self._running.values():
            running.stop.set()
            running.worker.wake()
        for task in tasks:
            task.cancel()

    async def _confirm(self, stopping: asyncio.Event) -> None:
        """Renews the Lease and looks at the durable objects. Raises `HoldLostError`."""
        while not stopping.is_set():
            self._turned = time.monotonic()
            try:
                if not await self.lease.attempt():
                    raise HoldLostError(f"another operator has taken the Lease: {self.lease.holder}")
            except ApiError as error:
                self._log.warning("api.failed", error=str(error), effect="nothing is confirmed; tried again")
            else:
                await self._sight.confirm()
            if not self.lease.held():
                raise HoldLostError("the Lease could not be renewed in time")
            await asyncio.sleep(RENEW_SECONDS)

    async def _see(self, stopping: asyncio.Event) -> None:
        await self._sight.run(stopping, self._seen)

    def _seen(self) -> None:
        """From now on there is something to decide from."""
        self._acting = True
        self._metrics.acting.set(1)

    # Servers.

    def _touch(self, key: str) -> None:
        """Something about a server may have changed."""
        self._dirty.add(key)
        self._changed.set()

    def _wake(self, key: str) -> None:
        running = self._running.get(key)
        if running is not None:
            running.worker.wake()

    async def _settle(self, stopping: asyncio.Event, group: asyncio.TaskGroup) -> None:
        """Makes views of what changed, wakes workers, starts those of new servers, and ends those of servers that are
        gone.
        """
        while not stopping.is_set():
            await self._changed.wait()
            self._changed.clear()
            dirty, self._dirty = self._dirty, set()
            if not self._acting:
                continue
            news = await self._samples.refresh(each for each in self._cluster.model_versions)
            known = self._sight.known()
            for key in dirty | news | (known - self._running.keys()):
                if key in known:
                    self._look_at(key, group)
                elif key in self._running:
                    self._retire(key)

    def _look_at(self, key: str, group: asyncio.TaskGroup) -> None:
        namespace = key.partition("/")[0]
        view = self._cluster.view(key, self._samples.get, self._sight.why_blind(namespace), self._no_restarts)
        self._say(key)
        if view == self._views.get(key) and key in self._running:
            self._wake(key)  # a status may have been wiped
            return
        self._views[key] = view
        if key in self._running:
            self._wake(key)
            return
        self._hub.open(key)
        worker, stop = ServerWorker(key, self._tools), asyncio.Event()
        self._running[key] = _Running(worker, stop, group.create_task(worker.run(stop)))
        self._log.info("server.found", server=key)

    def _retire(self, key: str) -> None:
        """Nothing names the server any more, no Pod and no durable object: its namespace was deleted, most likely."""
        running = self._running.pop(key)
        running.stop.set()
        running.worker.wake()
        running.task.add_done_callback(lambda _: self._gone(key))
        self._log.info("server.gone", server=key)

    def _gone(self, key: str) -> None:
        if key not in self._running:
            self._hub.close(key)
            self._store.forget(key)
            self._views.pop(key, None)
            self._metrics.forget(key)

    def _say(self, key: str) -> None:
        """What is wrong with a server's ModelVersions and decisions: once each, in the log and as an Event."""
        events = []
        for each in self._cluster.of_server(key):
            problems = [(SPEC_INVALID, each.problem)] if each.problem else []
            for reason, text in [*problems, *(("DecisionInvalid", text) for text in each.bad_decisions)]:
                if (each.uid, text) not in self._said:
                    self._said.add((each.uid, text))
                    events.append(Event(each.name, "Warning", reason, text))
                    self._log.warning("object.refused", server=key, name=each.name, reason=reason, message=text)
        if events:
            asyncio.get_running_loop().create_task(self._people.tell(key, events, datetime.now(UTC)))

    async def _restart(self, key: str, template: PodTemplate) -> None:
        """Changes a server's Pod template; its Deployment's controller does the rest. Tried again at the next pass.
        Only while it is the Deployment that was seen: another operator may act by now.
        """
        for each in self._cluster.deployments_of(key):
            if not self.lease.held():
                continue
            try:
                answer = await self._api.request(
                    "PATCH",
                    single("deployments", each.namespace, each.name),
                    template_patch(each, template),
                    content_type=STRATEGIC_PATCH,
                )
            except ApiError as error:
                say = self._log.info if error.status == CONFLICT else self._log.error
                say("template.not_changed", server=key, deployment=each.name, error=str(error))
                continue
            self._log.info("template.changed", server=key, deployment=each.name, **template.to_dict())
            self._cluster.deployments.put(deployment_of(answer))
            self._touch(key)

    async def _tend(self, stopping: asyncio.Event) -> None:
        """Once in a while: samples that are due, and the CA where servers are."""
        while not stopping.is_set():
            await asyncio.sleep(TEND_SECONDS)
            for key in await self._samples.refresh(each for each in self._cluster.model_versions):
                self._touch(key)
            if self._authority is not None and self._acting:
                await self._authority.hand_out(self._cluster.namespaces(), time.monotonic())

    async def _keep_certificate(self) -> None:
        """Renews it when that is due, or another operator has."""
        while True:
            await asyncio.sleep(CERTIFICATE_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311
            if self._authority is not None:
                try:
                    await self._authority.refresh()
                except ApiError as error:
                    self._log.error("certificate.not_renewed", error=str(error))
