"""Statuses and Events of ModelVersions, for people. Nothing here decides; problems are logged, and told again later."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from windlass_contract.document import DocumentError
from windlass_contract.identifiers import API_VERSION
from windlass_contract.model_version import Condition, ModelVersionStatus
from windlass_operator.driving.people import stalled, with_transition_times
from windlass_operator.engine.interface import Event, SeenReport

from .api import MERGE_PATCH, NOT_FOUND, Api, ApiError, Object, collection, single
from .cluster import Cluster
from .objects import MANAGER, SeenObject, model_version_of
from .store import SUFFIX

SPEC_INVALID = "SpecInvalid"
NO_REPLICAS = "NoReplicas"
MAX_NOTE = 1000
REWRITE_SECONDS = 5.0
"""Between writes of one and the same status: two operators that disagree must not answer each other's all the time."""


class ClusterPeople:
    """Patches statuses where they aren't what they should be, and posts Events."""

    def __init__(self, api: Api, cluster: Cluster, instance: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._cluster = cluster
        self._instance = instance
        self._clock = clock
        self._done: dict[tuple[str, str], _Done] = {}
        self._log = structlog.get_logger("windlass.kubernetes")

    async def show_statuses(self, key: str, statuses: Mapping[str, ModelVersionStatus]) -> None:
        """Patches the statuses of a server's ModelVersions where they differ."""
        objects = self._cluster.of_server(key)
        for seen in objects:
            status = statuses.get(seen.name)
            if seen.model_version is None:
                status = stalled(status, SPEC_INVALID, seen.problem)
                status = status.model_copy(update={"observed_generation": seen.generation})
            if status is not None:
                status = self._explained(key, status)
            if status is None or not self._due(seen, status):
                continue
            try:
                self._done[seen.id] = _Done(await self._patch(seen, status), status, self._clock())
            except ApiError as error:
                if error.status != NOT_FOUND:  # deleted just now
                    self._log.error(
                        "status.not_written", model_version=f"{seen.namespace}/{seen.name}", error=str(error)
                    )
        present = {each.id for each in self._cluster.model_versions}
        self._done = {name: done for name, done in self._done.items() if name in present}

    def _explained(self, key: str, status: ModelVersionStatus) -> ModelVersionStatus:
        """With what the cluster shows of a server that isn't heard of."""
        if not any(each.reason == NO_REPLICAS for each in status.conditions):
            return status
        message = f"{status.message} {self._cluster.absence(key)}."
        return status.model_copy(update={"message": message})

    async def show_reports(self, key: str, reports: Sequence[SeenReport]) -> None:
        """Nothing: what replicas hold is summed up in the statuses."""

    async def tell(self, key: str, events: Sequence[Event], at: datetime) -> None:
        """Posts Events about the ModelVersions; what concerns the server itself is about its plan."""
        namespace, _, server = key.partition("/")
        for event in events:
            seen = self._cluster.model_versions.get(namespace, event.model_version) if event.model_version else None
            if seen is not None:
                about = {"apiVersion": API_VERSION, "kind": "ModelVersion", "name": seen.name, "uid": seen.uid}
                about["resourceVersion"] = str(seen.version)
            elif event.model_version:
                about = {"apiVersion": API_VERSION, "kind": "ModelVersion", "name": event.model_version}
            else:
                about = {"apiVersion": "v1", "kind": "ConfigMap", "name": server + SUFFIX}
            try:
                await self._api.request(
                    "POST", collection("events", namespace), self._event(event, {**about, "namespace": namespace}, at)
                )
            except ApiError as error:
                if not error.namespace_ends and error.status != NOT_FOUND:
                    self._log.error("event.not_written", server=key, reason=event.reason, error=str(error))

    def _event(self, event: Event, about: Object, at: datetime) -> Object:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{about['name'][:230]}.{secrets.token_hex(8)}", "namespace": about["namespace"]},
            "regarding": about,
            "type": event.type,
            "reason": event.reason,
            "action": event.reason,
            "note": event.message[:MAX_NOTE],
            "eventTime": at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": f"windlass.dev/{MANAGER}",
            "reportingInstance": self._instance[:128],
        }

    def _due(self, seen: SeenObject, status: ModelVersionStatus) -> bool:
        done = self._done.get(seen.id)
        if done is None or done.status != status:
            return True
        return done.version != seen.version and self._clock() - done.at >= REWRITE_SECONDS

    async def _patch(self, seen: SeenObject, status: ModelVersionStatus) -> int:
        """Makes the status so; returns the resource version at which it is."""
        wanted = desired(status, seen.status, datetime.now(UTC))
        if wanted == seen.status:
            return seen.version
        removed = {name: None for name in seen.status if name not in wanted}
        answer = await self._api.request(
            "PATCH",
            single("modelversions", seen.namespace, seen.name) + "/status",
            {"status": {**wanted, **removed}},
            content_type=MERGE_PATCH,
        )
        written = model_version_of(answer)
        self._cluster.model_versions.put(written)
        return written.version


@dataclass(frozen=True)
class _Done:
    version: int
    """The resource version whose status was seen to be `status`."""
    status: ModelVersionStatus
    at: float


def desired(status: ModelVersionStatus, there: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """A status as it has to stand in the object, with the times of what stands `there` already."""
    before = []
    for each in there.get("conditions") or ():
        try:
            before.append(Condition.parse(each, "a condition"))
        except DocumentError:
            continue  # whoever wrote that; it is replaced
    dated = with_transition_times(status, before, now)
    return dated.model_dump(mode="json", by_alias=True, exclude_none=True)
