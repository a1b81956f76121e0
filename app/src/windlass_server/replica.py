"""One replica put together: host, follower or own choice, health, protocols and metrics."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from starlette.types import ASGIApp

from windlass_contract.plan import ModelPlan
from windlass_contract.report import VersionState
from windlass_contract.samples import AcceptanceSamples
from windlass_server.api.access import ApiKeys
from windlass_server.api.app import create_app
from windlass_server.api.bodies import Bodies
from windlass_server.api.envelope import Traffic
from windlass_server.api.images import ImageDecoding
from windlass_server.api.json_work import JsonWork
from windlass_server.connections import Connections
from windlass_server.following.follower import Follower
from windlass_server.following.unmanaged import Unmanaged
from windlass_server.health import Facts, ModelFacts, PlanSource, ReplicaHealth, VersionFacts
from windlass_server.hosting.fetcher_watch import FetcherWatch
from windlass_server.hosting.host import Host, HostSettings, MakeResident
from windlass_server.hosting.memory import Room
from windlass_server.hosting.memory_watch import MemoryWatch
from windlass_server.hosting.order import Key
from windlass_server.metrics import Exposition, metrics_app
from windlass_server.predictions.log import PredictionLog
from windlass_server.secret_files import follow
from windlass_server.settings import Settings

if TYPE_CHECKING:
    from windlass_server.following.subscription import Subscription

HEARTBEAT_SECONDS = 0.5


class Following(Protocol):
    """Where the plan comes from: an operator, or the replica's own choice."""

    @property
    def source(self) -> PlanSource: ...
    def problems(self) -> list[str]: ...
    def changed(self) -> None: ...
    async def samples(self, digest: str) -> AcceptanceSamples: ...
    async def run(self) -> None: ...


@dataclass(frozen=True)
class Storage:
    """What a replica writes to."""

    state_dir: Path | None
    """None: nothing can be kept."""
    predictions: PredictionLog | None
    problems: tuple[str, ...] = ()
    """Why something can't be kept, each in a sentence."""


class Replica:
    """Belongs to the running event loop. `app` and `metrics` are to be served, `run` is to run, `close` ends it."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        make_resident: MakeResident,
        connections: Connections,
        images: ImageDecoding,
        json: JsonWork,
        keys: ApiKeys | None = None,
        confinement: Callable[[], Mapping[str, str]] = dict,
        room: Room | None = None,
    ) -> None:
        """`confinement`: of its workers, for `/health`. `room`: the memory to watch over."""
        self._confinement = confinement
        self._room = room
        self.instance = str(uuid.uuid4())
        self._storage = storage
        self._keys = keys
        self._draining = False
        self._beat = asyncio.get_running_loop().time()
        self._fetcher = FetcherWatch(settings.models) if settings.managed else None
        self.host = Host(
            (settings.server_name, settings.replica, self.instance),
            HostSettings(
                models=settings.models,
                queue_length=settings.queue_length,
                explicit_queue_length=settings.explicit_queue_length,
                request_deadline=settings.request_deadline,
            ),
            make_resident,
            self._samples,
            self._changed,
            self._fetcher,
            settings.revision,
        )
        self.health = ReplicaHealth(self._facts, lambda: datetime.now(UTC))
        self.following: Following = self._follower(settings) if settings.managed else self._unmanaged(settings)
        traffic = Traffic(Bodies(settings.max_received_bytes), json)
        self.app: ASGIApp = create_app(
            self.host,
            instance=self.instance,
            limits=settings.limits,
            predictions=storage.predictions,
            health=self.health,
            strict_tfs=settings.strict_tfs,
            keys=keys,
            images=images,
            cors_origins=settings.cors_origin,
            traffic=traffic,
            is_draining=lambda: self._draining,
        )
        loop = asyncio.get_running_loop()
        self.metrics: ASGIApp = metrics_app(
            Exposition(self.host, traffic, connections, storage.predictions, lambda: self.health.ready()[0], loop.time)
        )

    @property
    def draining(self) -> bool:
        """It is stopping."""
        return self._draining

    def drain(self) -> None:
        """From now on it isn't ready; what still comes is answered."""
        self._draining = True
        self.following.changed()

    async def run(self) -> None:
        """Follows the plan until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._heartbeat())
            tasks.create_task(self.following.run())
            if self._fetcher is not None:
                tasks.create_task(self._fetcher.run())
            if self._room is not None:
                tasks.create_task(MemoryWatch(self._room, self.host).run())
            if self._keys is not None:
                tasks.create_task(follow(self._keys.watched, self._keys.reload))

    async def close(self) -> None:
        """Unloads everything; what was admitted is answered before."""
        await self.host.close()

    def _follower(self, settings: Settings) -> Follower:
        url = settings.operator
        connect: Callable[[Follower], Subscription] | None = None
        if url is not None:
            # Here, not above: the client of HTTP takes 0.1 s and 6 MB, and who has no operator asks nobody.
            from windlass_server.following.subscription import Subscription

            def connect(follower: Follower) -> Subscription:
                return Subscription(
                    url,
                    settings.server_name,
                    self.instance,
                    settings.control_token_file,
                    settings.operator_ca_file,
                    follower,
                )

        return Follower(
            self.host,
            state_dir=self._storage.state_dir,
            plan_file=settings.plan_file,
            connect=connect,
            is_ready=lambda: self.health.ready()[0],
            is_draining=lambda: self._draining,
        )

    def _unmanaged(self, settings: Settings) -> Unmanaged:
        return Unmanaged(self.host, settings.models)

    async def _samples(self, digest: str) -> AcceptanceSamples:
        return await self.following.samples(digest)

    def _changed(self) -> None:
        if not self.health.ready_once.is_set():
            self.health.ready()  # looks at every model; once it was ready, whoever asks finds out
        self.following.changed()

    async def _heartbeat(self) -> None:
        while True:
            self._beat = asyncio.get_running_loop().time()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def _facts(self, was_ready: bool) -> Facts:
        plan = self.host.followed
        predictions = self._storage.predictions
        held_back = self.host.held_back
        models = plan.models.items() if plan is not None else ()
        return Facts(
            source=self.following.source,
            models={name: self._model_facts(name, model, held_back=name in held_back) for name, model in models},
            was_ready=was_ready,
            draining=self._draining,
            loop_lag_seconds=max(0.0, asyncio.get_running_loop().time() - self._beat - HEARTBEAT_SECONDS),
            stuck=self.host.stuck(),
            database=predictions.status() if predictions is not None else "disabled",
            database_problem=predictions.problem if predictions is not None else "",
            notes=(*self._storage.problems, *self._open_breakers(), *self.following.problems()),
            epoch=plan.epoch if plan is not None else None,
            instance=self.instance,
            confinement=self._confinement(),
        )

    def _open_breakers(self) -> list[str]:
        return [
            f"version {key.version} of model {key.model} gets no traffic until the plan changes: {why.message}"
            for key, why in sorted(self.host.open_breakers.items(), key=lambda item: item[0])
        ]

    def _model_facts(self, name: str, plan: ModelPlan, *, held_back: bool) -> ModelFacts:
        versions = []
        for planned in plan.versions:
            slot = self.host.slots.get(Key(name, planned.version, planned.digest))
            state = slot.state if slot is not None else VersionState.WAITING
            message = slot.message if slot is not None else ""
            versions.append(VersionFacts(planned.version, state, planned.weight > 0, message))
        routes = self.host.table.models.get(name)
        return ModelFacts(
            tuple(versions),
            answers=routes is not None and bool(routes.weights),
            held_back=held_back,
        )
