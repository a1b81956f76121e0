"""Plan and record of each server in the ConfigMap `<server>-windlass-plan`, beside the server.

Its generation is its uid and `resourceVersion`: an object that was deleted, edited or put back is another, and a write
that was computed from this one is refused by the API server.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from windlass_contract.document import DocumentError
from windlass_contract.record import ServerState
from windlass_operator.driving.durable import DamagedStateError, StoreConflictError, Stored, StoreError

from .api import CONFLICT, METADATA_ONLY, NOT_FOUND, Api, ApiError, Object, collection, single
from .objects import MANAGED_BY_LABEL, MANAGER, SERVER_LABEL

SUFFIX = "-windlass-plan"
KEY = "state.json"
DAMAGED_KEY = "state.json.damaged"
MAX_STATE_BYTES = 1024 * 1024
SELECTOR = f"{MANAGED_BY_LABEL}={MANAGER},{SERVER_LABEL}"


class NamespaceEndsError(StoreError):
    """The namespace is being deleted: nothing can be written, and nothing needs to be."""


class ConfigMapStore:
    """The durable objects of all servers; `look` confirms all those of a namespace by one request."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._known: dict[str, tuple[str, float]] = {}
        """By key: the generation that was seen last (empty: none), and when."""

    async def look(self, namespace: str | None) -> set[str]:
        """Looks at the generations of all objects of a namespace (None: of all); returns the keys whose generation is
        news. Raises `ApiError`.
        """
        started = self._clock()
        found: dict[str, str] = {}
        answer = await self._api.request(
            "GET", collection("configmaps", namespace), query={"labelSelector": SELECTOR}, accept=METADATA_ONLY
        )
        for item in answer.get("items") or ():
            key = _key_of(item)
            if key:
                found[key] = _generation(item)
        changed = set()
        for key in self._known.keys() | found.keys():
            generation, at = self._known.get(key, ("", 0.0))
            if at > started or namespace not in (None, key.partition("/")[0]):
                continue
            now = found.get(key, "")
            if now != generation:
                changed.add(key)
            self._known[key] = (now, started)
        return changed

    def servers(self) -> set[str]:
        """Keys of the servers that have an object."""
        return {key for key, (generation, _) in self._known.items() if generation}

    def forget(self, key: str) -> None:
        """There is nothing left of a server."""
        self._known.pop(key, None)

    async def age(self, key: str, generation: str) -> float | None:
        """Seconds since the object was last seen to have that generation; None: it has another now, or is gone."""
        known, at = self._known.get(key, ("", 0.0))
        return max(0.0, self._clock() - at) if known == generation else None

    async def read(self, key: str) -> Stored:
        """The object. Raises `StoreError`, `DamagedStateError`."""
        value = await self._get(key)
        if value is None:
            return Stored(None, "")
        text = (value.get("data") or {}).get(KEY)
        if text is None and DAMAGED_KEY in (value.get("data") or {}):
            return Stored(None, _generation(value))  # put aside before, and not rebuilt yet
        server = key.rpartition("/")[2]
        source = f"ConfigMap {key}{SUFFIX}"
        if text is None:
            raise DamagedStateError(f"{source} has no key {KEY}")
        try:
            state = ServerState.parse_json(text, source, MAX_STATE_BYTES)
        except DocumentError as error:
            raise DamagedStateError(str(error)[:2000]) from error
        if state.server != server:
            raise DamagedStateError(f"{source} is of server {state.server!r}")
        if _key_of(value) != key:
            # Without its labels it isn't seen by `look`.
            return Stored(state, await self._put(key, value.get("data") or {}, _generation(value)))
        return Stored(state, _generation(value))

    async def put_aside(self, key: str) -> str:
        """Moves what is there to another key of the ConfigMap. Raises `StoreError`."""
        value = await self._get(key)
        if value is not None:
            text = (value.get("data") or {}).get(KEY)
            data = {} if text is None else {DAMAGED_KEY: str(text)[:MAX_STATE_BYTES]}
            try:
                await self._put(key, data or {DAMAGED_KEY: ""}, _generation(value))
            except StoreConflictError as error:
                raise StoreError(str(error)) from error
        return f"ConfigMap {key}{SUFFIX}, key {DAMAGED_KEY}"

    async def write(self, key: str, state: ServerState, expected: str) -> str:
        """Replaces the object of generation `expected` (empty: there is none); returns the new one.
        Raises `StoreConflictError`, `StoreError`.
        """
        text = json.dumps(state.to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return await self._put(key, {KEY: text}, expected)

    async def _get(self, key: str) -> Object | None:
        namespace, _, server = key.partition("/")
        started = self._clock()
        try:
            value = await self._api.request("GET", single("configmaps", namespace, server + SUFFIX))
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise StoreError(str(error)) from error
            self._known[key] = ("", started)
            return None
        self._known[key] = (_generation(value), started)
        return value

    async def _put(self, key: str, data: dict[str, str], expected: str) -> str:
        namespace, _, server = key.partition("/")
        metadata: dict[str, Any] = {
            "name": server + SUFFIX,
            "namespace": namespace,
            "labels": {MANAGED_BY_LABEL: MANAGER, SERVER_LABEL: server},
        }
        value: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        try:
            if expected:
                metadata["uid"], _, metadata["resourceVersion"] = expected.partition("/")
                path = single("configmaps", namespace, server + SUFFIX)
                answer = await self._api.request("PUT", path, value)
            else:
                answer = await self._api.request("POST", collection("configmaps", namespace), value)
        except ApiError as error:
            if error.status in (CONFLICT, NOT_FOUND) and not error.namespace_ends:
                raise StoreConflictError(str(error)) from error
            if error.namespace_ends or error.status == NOT_FOUND:
                raise NamespaceEndsError(f"namespace {namespace} is being deleted") from error
            raise StoreError(str(error)) from error
        generation = _generation(answer)
        self._known[key] = (generation, self._clock())
        return generation


def _generation(value: Object) -> str:
    metadata = value.get("metadata") or {}
    return f"{metadata.get('uid', '')}/{metadata.get('resourceVersion', '')}"


def _key_of(value: Object) -> str:
    """The server whose object this is; empty: nobody's."""
    metadata = value.get("metadata") or {}
    labels = metadata.get("labels") or {}
    server = labels.get(SERVER_LABEL, "")
    ours = labels.get(MANAGED_BY_LABEL) == MANAGER and metadata.get("name") == f"{server}{SUFFIX}"
    return f"{metadata.get('namespace')}/{server}" if ours and server else ""
