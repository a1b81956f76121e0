"""kopf, in a thread and an event loop of its own: what changes in the cluster is handed to the driver's loop.

A thread, since kopf takes every task of its event loop for its own when it ends. One of its watchers may die while all
else goes on (an error in the stream, a right that was taken away); `dead` notices, and the driver starts kopf anew.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import kopf
import structlog

from windlass_contract.identifiers import GROUP

from .api import Object
from .objects import SERVER_LABEL, Named, deployment_of, model_version_of, pod_of

KINDS: Mapping[str, tuple[str, str, Callable[[Object], Named]]] = {
    "modelversions": (GROUP, "", model_version_of),
    "pods": ("", SERVER_LABEL, pod_of),
    "deployments": ("apps", SERVER_LABEL, deployment_of),
}
"""By kind: its group, the labels by which the API server chooses, and what an object says."""
START_SECONDS = 30.0
"""After which all watchers have to be there."""
LOOK_SECONDS = 10.0
STOP_SECONDS = 10.0

IDENTITY: Any = "windlass-operator"
"""Of a kopf that has peers; ours stands alone."""

Take = Callable[[str, bool, Named], None]
"""Kind, whether the object was deleted, and what it says."""


class Watch:
    """One run of kopf over some namespaces (None: all). Ends by `stop`; the next one is another object."""

    def __init__(self, info: kopf.ConnectionInfo, namespaces: tuple[str, ...] | None, take: Take) -> None:
        self.namespaces = namespaces
        self._info = info
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._inner: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._started = time.monotonic()
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Ends it; what it still hands over is older than what is listed afterwards."""
        inner, end = self._inner, self._end
        if inner is not None and end is not None and not inner.is_closed():
            inner.call_soon_threadsafe(end.set)
        await asyncio.to_thread(self._thread.join, STOP_SECONDS)

    async def dead(self) -> str:
        """Why it has to be started anew; empty: it watches."""
        if not self._thread.is_alive():
            return self._failure or "kopf has ended"
        if time.monotonic() - self._started < START_SECONDS:
            return ""
        inner = self._inner
        if inner is None:
            return "kopf doesn't start"
        try:
            watchers = await asyncio.wait_for(
                asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._watchers(), inner)), LOOK_SECONDS
            )
        except TimeoutError:
            return "kopf's event loop doesn't turn"
        expected = len(KINDS) * (1 if self.namespaces is None else len(self.namespaces))
        return "" if len(watchers) >= expected else f"of {expected} watchers there are: {', '.join(watchers) or 'none'}"

    async def _watchers(self) -> list[str]:
        names = [task.get_name() for task in asyncio.all_tasks() if not task.done()]
        return sorted(name for name in names if name.startswith("watcher for "))

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:  # noqa: BLE001 - whatever ends it, the driver starts another
            self._failure = f"kopf has ended: {error}"
            structlog.get_logger("windlass.kubernetes").exception("watch.failed")

    async def _main(self) -> None:
        self._inner, self._end = asyncio.get_running_loop(), asyncio.Event()
        everywhere: dict[str, Any] = {"clusterwide": True} if self.namespaces is None else {}
        await kopf.operator(
            registry=self._registry(),
            settings=_settings(),
            standalone=True,
            # Else kopf asks for the name of a user who, in a container, need have none.
            identity=IDENTITY,
            stop_flag=self._end,
            namespaces=self.namespaces or (),
            **everywhere,
        )

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def log_in(**_: Any) -> kopf.ConnectionInfo:
            return self._info

        for kind, (group, _, read) in KINDS.items():
            kopf.on.event(group, "v1alpha1" if group == GROUP else "v1", kind, registry=registry, id=kind)(
                self._handler(kind, read)
            )
        return registry

    def _handler(self, kind: str, read: Callable[[Object], Named]) -> Callable[..., Any]:
        async def handle(event: Any, **_: Any) -> None:
            item = read(event["object"])
            self._loop.call_soon_threadsafe(self._take, kind, event["type"] == "DELETED", item)

        return handle


def _settings() -> kopf.OperatorSettings:
    """Every knob whose default is unbounded, or shared with other operators on kopf."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # our Events are few and deliberate
    settings.scanning.disabled = True  # no right to list CRDs and namespaces is needed
    settings.persistence.finalizer = f"{GROUP}/operator"  # never set: no handler needs one
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    settings.watching.connect_timeout = 10
    settings.watching.server_timeout = 600
    settings.networking.request_timeout = 30
    settings.process.ultimate_exiting_timeout = None
    for kind, (_, labels, _) in KINDS.items():
        if labels:
            settings.watching.label_selectors[kind] = labels
    return settings
