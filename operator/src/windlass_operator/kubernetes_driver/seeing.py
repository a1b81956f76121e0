"""What there is in the cluster: by complete lists, by the watch, and by looks at the durable objects.

A namespace that can't be seen is named with its remedy and looked for again; the others don't suffer for it. One that
is deleted is let go of.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Any

import kopf
import structlog

from windlass_operator.metrics import Metrics

from .api import FORBIDDEN, NOT_FOUND, Api, ApiError, collection, namespace_path
from .cluster import Cluster, Seen
from .objects import Named, SeenObject
from .store import ConfigMapStore
from .watching import KINDS, Watch

RESYNC_SECONDS = 300.0
"""Between complete lists: kopf makes none by itself, and a lost event must not stay lost."""
RETRY_SECONDS = 10.0
"""Between tries to see what couldn't be seen."""
WATCH_SECONDS = 10.0

_FIELDS = {"modelversions": "model_versions", "pods": "pods", "deployments": "deployments"}


class Sight:
    """Fills `cluster` from some namespaces (None: all). `touch` is called with each server that there is news of."""

    def __init__(
        self,
        api: Api,
        info: kopf.ConnectionInfo,
        cluster: Cluster,
        store: ConfigMapStore,
        metrics: Metrics,
        asked: tuple[str, ...] | None,
        touch: Callable[[str], None],
    ) -> None:
        self._api = api
        self._info = info
        self._cluster = cluster
        self._store = store
        self._metrics = metrics
        self._asked: tuple[str | None, ...] = asked if asked is not None else (None,)
        self._touch = touch
        self._blind: dict[str | None, str] = {}
        """Why a namespace can't be seen."""
        self._ended: set[str | None] = set()
        """Those of them that are deleted, or about to be."""
        self._watch: Watch | None = None
        self._resync = asyncio.Event()
        self.well_at = time.monotonic()
        """When the watch was last seen to be well, or there was nothing to watch."""
        self._log = structlog.get_logger("windlass.kubernetes")

    def known(self) -> set[str]:
        """Servers that anything names, a durable object too: what serves goes on serving."""
        return self._cluster.servers() | self._store.servers()

    def why_blind(self, namespace: str) -> str:
        """Why a namespace can't be seen now; empty: it can."""
        return self._blind.get(namespace, "") or self._blind.get(None, "")

    async def run(self, stopping: asyncio.Event, on_seen: Callable[[], None]) -> None:
        """Lists everything, calls `on_seen`, then watches; lists again once in a while, and starts a watch that died
        anew.
        """
        while not stopping.is_set():
            self._resync.clear()
            for namespace in self._asked:
                await self._list(namespace)
            visible = self._visible()
            self._metrics.unseen_namespaces.set(len(self._blind.keys() - self._ended))
            try:
                for namespace in visible:
                    await self._store.look(namespace)
            except ApiError as error:
                self._log.error("api.failed", error=str(error))
                await wait_for(self._resync, RETRY_SECONDS)
                continue
            await self._follow(visible)
            if visible:
                on_seen()
                for key in self.known():
                    self._touch(key)
            await self._await_next(RETRY_SECONDS if self._blind else RESYNC_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311

    async def confirm(self) -> None:
        """Looks at the durable objects, by one request for each namespace."""
        for namespace in self._visible():
            try:
                for key in await self._store.look(namespace):
                    self._touch(key)
            except ApiError as error:
                self._log.warning("api.failed", error=str(error), effect="nothing of it is confirmed; tried again")
                if error.status in (FORBIDDEN, NOT_FOUND):
                    self._resync.set()  # it was deleted, or a right was taken away

    async def stop(self) -> None:
        """Ends the watch."""
        if self._watch is not None:
            watch, self._watch = self._watch, None
            await watch.stop()

    def _visible(self) -> list[str | None]:
        """Namespaces that can be seen; `[None]`: all at once."""
        return [each for each in self._asked if each not in self._blind]

    async def _await_next(self, seconds: float) -> None:
        """Until it is time for the next complete look, or the watch has died."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._resync.is_set():
            await wait_for(self._resync, min(left, WATCH_SECONDS))
            if self._watch is None:
                continue
            why = await self._watch.dead()
            if not why:
                self.well_at = time.monotonic()
                continue
            self._log.error("watch.dead", reason=why, effect="everything is listed, and kopf is started anew")
            self._metrics.watch_restarts.inc()
            await self.stop()
            return

    async def _list(self, namespace: str | None) -> None:
        """Everything of a namespace; what can't be seen is said once, with the remedy."""
        try:
            for kind, (_, labels, read) in KINDS.items():
                query = {"labelSelector": labels} if labels else None
                items, at = await self._api.items(collection(kind, namespace), query)
                seen: Seen[Any] = getattr(self._cluster, _FIELDS[kind])
                seen.replace([read(item) for item in items], at, namespace)
        except ApiError as error:
            if namespace is not None and error.status == FORBIDDEN and await self._ends(namespace):
                self._let_go(namespace)
                return
            remedy = {
                FORBIDDEN: "; give the operator's service account its role there, or don't name the namespace",
                NOT_FOUND: "; is the CRD modelversions.windlass.dev installed?",
            }.get(error.status, "")
            why = f"{f'namespace {namespace}' if namespace else 'the cluster'} can't be seen: {error}{remedy}"
            if self._blind.get(namespace) != why:
                self._log.error("namespace.unseen", namespace=namespace or "", error=why, retry_seconds=RETRY_SECONDS)
            self._blind[namespace] = why
            self._ended.discard(namespace)
        else:
            self._ended.discard(namespace)
            if self._blind.pop(namespace, ""):
                self._log.info("namespace.seen", namespace=namespace or "")

    async def _ends(self, namespace: str) -> bool:
        """Whether a namespace is being deleted, or is gone: its roles go first, and with them every other answer.
        Without the right to ask, it counts as there.
        """
        try:
            found = await self._api.request("GET", namespace_path(namespace))
        except ApiError as error:
            return error.status == NOT_FOUND
        return "deletionTimestamp" in (found.get("metadata") or {})

    def _let_go(self, namespace: str) -> None:
        """Forgets a namespace that ends. It is looked for further: another of the same name may be made."""
        if namespace not in self._ended:
            self._log.info("namespace.gone", namespace=namespace, effect="its servers are let go of")
        self._blind[namespace] = f"namespace {namespace} is deleted"
        self._ended.add(namespace)
        gone = [key for key in self.known() if key.startswith(f"{namespace}/")]
        self._cluster.forget(namespace)
        for key in gone:
            self._store.forget(key)
            self._touch(key)

    async def _follow(self, visible: list[str | None]) -> None:
        """Watches what can be seen; kopf's watchers are for namespaces named at its start."""
        wanted = None if visible == [None] else tuple(each for each in visible if each is not None)
        if self._watch is not None and self._watch.namespaces != wanted:
            await self.stop()
        if self._watch is None and visible:
            self._watch = Watch(self._info, wanted, self._take)
        self.well_at = time.monotonic()

    def _take(self, kind: str, deleted: bool, item: Named) -> None:
        """News from a watch."""
        if item.namespace in self._ended:
            return
        seen: Seen[Any] = getattr(self._cluster, _FIELDS[kind])
        before = seen.get(item.namespace, item.name)
        if deleted:
            seen.drop(item)
        else:
            seen.put(item)
        for each in (before, item):
            server = getattr(each, "server", "")
            if server:
                self._touch(f"{item.namespace}/{server}")
        if isinstance(item, SeenObject) and not item.server:
            for key in self.known():
                if key.startswith(f"{item.namespace}/"):
                    self._touch(key)


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
