"""Requests to the API server."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import kopf
from prometheus_client import Counter

from windlass_operator.web import StartError

Object = dict[str, Any]
"""As JSON has it."""

REQUEST_SECONDS = 10.0
TOKEN_SECONDS = 30.0
"""After which the service account's token is read anew: the kubelet rotates it."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
"""Lists of named things are merged by name."""
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

CONFLICT = 409
FORBIDDEN = 403
NOT_FOUND = 404


class ApiError(Exception):
    """The API server refused, or couldn't be asked."""

    def __init__(self, message: str, status: int = 0, causes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP; 0: there was no answer."""
        self.causes = causes

    @property
    def namespace_ends(self) -> bool:
        """Whether the namespace is being deleted."""
        return "NamespaceTerminating" in self.causes


def login() -> kopf.ConnectionInfo:
    """Who we are: the Pod's service account, else the kubeconfig. Raises `StartError`."""
    logger, settings = logging.getLogger("windlass.kubernetes"), kopf.OperatorSettings()
    try:
        info = kopf.login_with_service_account(logger=logger, settings=settings)
        info = info or kopf.login_with_kubeconfig(logger=logger, settings=settings)
    except (kopf.LoginError, OSError, ValueError, KeyError) as error:
        raise StartError(f"the kubeconfig can't be used: {error}") from error
    if info is None:
        raise StartError("there is no API server to talk to: run it in a Pod with a service account, or set KUBECONFIG")
    return info


class Api:
    """The API server, until `close`. One event loop's."""

    def __init__(self, info: kopf.ConnectionInfo, requests: Counter | None = None) -> None:
        self._server = info.server.rstrip("/")
        self._headers = info.as_http_headers()
        self._requests = requests
        self._token_read = 0.0
        self._token_file = SERVICE_ACCOUNT / "token" if (SERVICE_ACCOUNT / "token").is_file() else None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=16, ssl=info.as_ssl_context()),
            headers={"User-Agent": "windlass-operator"},
        )

    async def close(self) -> None:
        """Ends all connections."""
        await self._session.close()

    async def request(
        self,
        verb: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        seconds: float = REQUEST_SECONDS,
    ) -> Object:
        """The answer to a request that succeeded. Raises `ApiError`."""
        code = "none"
        try:
            async with self._session.request(
                verb,
                self._server + path,
                params=query,
                data=None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(),
                headers={"Accept": accept, "Content-Type": content_type, **await self._authorization()},
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,
            ) as response:
                code = str(response.status)
                data = await response.content.read(MAX_ANSWER_BYTES)
                while not response.content.at_eof():
                    data += await response.content.read(MAX_ANSWER_BYTES)
                    if len(data) > MAX_ANSWER_BYTES:
                        raise ApiError(f"{verb} {path}: the answer has more than {MAX_ANSWER_BYTES} bytes")
                return _decoded(verb, path, response.status, data)
        except TimeoutError:
            raise ApiError(f"{verb} {path}: the API server didn't answer within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ApiError(f"{verb} {path}: the API server is out of reach: {error or type(error).__name__}") from error
        finally:
            if self._requests is not None:
                self._requests.labels(verb, _resource(path), code).inc()

    async def items(self, path: str, query: Mapping[str, str] | None = None) -> tuple[list[Object], int]:
        """All objects of a collection, with the list's resource version. Raises `ApiError`."""
        answer = await self.request("GET", path, query=query)
        return answer.get("items") or [], version_of(answer)

    async def _authorization(self) -> Mapping[str, str]:
        if self._token_file is not None and time.monotonic() - self._token_read > TOKEN_SECONDS:
            try:
                token = await asyncio.to_thread(self._token_file.read_text)
            except OSError as error:
                raise ApiError(f"the service account's token can't be read: {error}") from error
            self._headers = {"Authorization": f"Bearer {token.strip()}"}
            self._token_read = time.monotonic()
        return self._headers


def _decoded(verb: str, path: str, status: int, data: bytes) -> Object:
    try:
        answer = json.loads(data) if data else {}
    except ValueError:
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    if status < 300:
        return answer
    details = answer.get("details") or {}
    causes = tuple(str(cause.get("reason", "")) for cause in details.get("causes") or ())
    message = str(answer.get("message") or data[:500].decode("utf-8", "replace") or f"HTTP {status}")
    raise ApiError(f"{verb} {path}: {message[:1000]}", status, causes)


def _resource(path: str) -> str:
    """The kind of object in a path, for metrics: `configmaps`, `modelversions/status`."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    return "/".join([parts[0], *parts[2:]]) if parts else ""


def version_of(value: Object) -> int:
    """The resource version of an object or a list; larger is newer."""
    try:
        return int(value["metadata"]["resourceVersion"])
    except (KeyError, TypeError, ValueError):
        return 0


def collection(kind: str, namespace: str | None) -> str:
    """The path of a collection: `collection("pods", None)` is that of all namespaces."""
    group = _GROUPS[kind]
    return f"{group}/namespaces/{namespace}/{kind}" if namespace else f"{group}/{kind}"


def namespace_path(name: str) -> str:
    """The path of a namespace itself."""
    return f"/api/v1/namespaces/{name}"


def single(kind: str, namespace: str, name: str) -> str:
    """The path of one object."""
    return f"{collection(kind, namespace)}/{name}"


_GROUPS = {
    "configmaps": "/api/v1",
    "deployments": "/apis/apps/v1",
    "events": "/apis/events.k8s.io/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "modelversions": "/apis/windlass.dev/v1alpha1",
    "pods": "/api/v1",
    "secrets": "/api/v1",
}
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
