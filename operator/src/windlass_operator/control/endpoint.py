"""The control endpoint on HTTP, as `windlass_contract.control` says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import structlog
from aiohttp import web
from pydantic import Field, TypeAdapter, ValidationError

from windlass_contract.control import (
    LONG_POLL_SECONDS,
    MAX_REPORT_BYTES,
    PLAN_PATH,
    POLL_SECONDS,
    REPORT_PATH,
    REPORT_SECONDS,
    SAMPLES_PATH,
    PlanAnswer,
)
from windlass_contract.document import Document, DocumentError, load_json
from windlass_contract.identifiers import Digest, ServerName
from windlass_contract.plan import Epoch
from windlass_contract.report import ServingReport

from .auth import MAX_TOKEN_BYTES, Authenticator, Identity
from .hub import EpochTooHighError, Hub, NotActingError
from .registry import RegistryFullError
from .wording import wording_of

_SERVER: TypeAdapter[str] = TypeAdapter(ServerName)
_DIGEST: TypeAdapter[str] = TypeAdapter(Digest)
_EPOCH: TypeAdapter[int] = TypeAdapter(Epoch)
_HOLD: TypeAdapter[float] = TypeAdapter(Annotated[float, Field(gt=0)])
_BEARER = re.compile(r"Bearer +(\S+) *", re.IGNORECASE)
_LARGE_REPORT = 64 * 1024
"""Bytes from which a report is decoded off the event loop."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(hub: Hub, authenticator: Authenticator) -> web.Application:
    """The application that serves `hub` to whom `authenticator` knows."""
    endpoint = _Endpoint(hub, authenticator)
    app = web.Application(middlewares=[_errors], client_max_size=MAX_REPORT_BYTES)
    # The router tries them in this order, and nearly all requests are reports.
    app.router.add_post(REPORT_PATH, endpoint.report)
    app.router.add_get(PLAN_PATH, endpoint.plan, allow_head=False)
    app.router.add_get(SAMPLES_PATH, endpoint.samples, allow_head=False)
    return app


class _Endpoint:
    def __init__(self, hub: Hub, authenticator: Authenticator) -> None:
        self._hub = hub
        self._authenticator = authenticator

    async def plan(self, request: web.Request) -> web.Response:
        identity = await self._authenticate(request)
        epoch, digest = _held(request)
        plan = await self._hub.next_plan(identity.key, epoch, digest, _hold(request))
        return _answer(PlanAnswer(plan=plan))

    async def report(self, request: web.Request) -> web.Response:
        identity = await self._authenticate(request)
        body = await request.read()
        wording = wording_of(body)
        report = self._hub.repeated(identity.key, wording) if wording is not None else None
        if report is not None:
            pass  # its words were checked before; whether who sends it may is checked below
        elif len(body) > _LARGE_REPORT:
            report = await asyncio.to_thread(self._parse_report, identity.key, body)
        else:
            report = self._parse_report(identity.key, body)
        if report.server != identity.server:
            raise _error(
                web.HTTPBadRequest,
                f"the report is of server {report.server!r}, the address says {identity.server!r}: post it to its own",
            )
        if identity.replica is not None and report.replica != identity.replica:
            raise _error(
                web.HTTPForbidden, f"the token was given to replica {identity.replica!r}, not to {report.replica!r}"
            )
        try:
            return _answer(self._hub.take_report(identity.key, report, wording))
        except RegistryFullError as error:
            raise _error(web.HTTPTooManyRequests, str(error)) from error
        except EpochTooHighError as error:
            structlog.get_logger("windlass.control").warning("report.refused", server=report.server, reason=str(error))
            raise _error(web.HTTPBadRequest, str(error)) from error

    def _parse_report(self, server: str, body: bytes) -> ServingReport:
        try:
            decoded = load_json(body, "the report", MAX_REPORT_BYTES)
            value, plan = self._hub.with_plan_known(server, decoded)
            report = ServingReport.parse(value, "the report")
        except DocumentError as error:
            raise _error(web.HTTPBadRequest, str(error)[:4000]) from error
        return report.model_copy(update={"plan": plan}) if plan is not None else report

    async def samples(self, request: web.Request) -> web.Response:
        identity = await self._authenticate(request)
        try:
            digest = _DIGEST.validate_python(request.match_info["digest"])
        except ValidationError:
            raise _error(web.HTTPBadRequest, "the digest is sha256: and 64 hex digits") from None
        data = self._hub.samples(identity.key, digest)
        if data is None:
            raise _error(web.HTTPNotFound, f"no ModelVersion of server {identity.server!r} has samples {digest} now")
        return web.Response(body=data, content_type="application/octet-stream")

    async def _authenticate(self, request: web.Request) -> Identity:
        match = _BEARER.fullmatch(request.headers.get("Authorization", ""))
        if match is None or len(match[1]) > MAX_TOKEN_BYTES:
            raise _unauthorized("Authorization: Bearer <control token> is missing")
        try:
            server = _SERVER.validate_python(request.match_info["server"])
        except ValidationError:
            raise _error(web.HTTPNotFound, "a server's name is a DNS label") from None
        identity = await self._authenticator.identify(match[1], server)
        if identity is None:
            raise _unauthorized("the control token is unknown; has it been rotated?")
        if identity.server != server:
            raise _error(web.HTTPForbidden, f"the control token is for server {identity.server!r}, not for {server!r}")
        return identity


def _held(request: web.Request) -> tuple[int | None, str | None]:
    """Epoch and digest of the plan that the subscriber holds; both None: it holds none."""
    epoch, digest = request.query.get("epoch"), request.query.get("digest")
    try:
        number = _EPOCH.validate_python(epoch) if epoch else None
    except ValidationError:
        raise _error(web.HTTPBadRequest, "epoch is a whole number from 0 to 2**53-1") from None
    try:
        text = _DIGEST.validate_python(digest) if digest else None
    except ValidationError:
        raise _error(web.HTTPBadRequest, "digest is sha256: and 64 hex digits") from None
    if (number is None) != (text is None):
        raise _error(web.HTTPBadRequest, "epoch and digest are given together: those of the plan held, or neither")
    return number, text


def _hold(request: web.Request) -> float:
    """Seconds for which a poll without news may be held. More than we hold is no error: others may hold longer."""
    text = request.query.get("hold")
    try:
        return min(_HOLD.validate_python(text), LONG_POLL_SECONDS) if text else POLL_SECONDS
    except ValidationError:
        raise _error(web.HTTPBadRequest, "hold is a number of seconds above 0") from None


def _answer(document: Document) -> web.Response:
    # Exactly the fields that were given: a plan's digest is over them.
    return web.Response(body=document.to_json(), content_type="application/json")


def _error(kind: type[web.HTTPError], message: str, **headers: str) -> web.HTTPError:
    return kind(text=_body(message), content_type="application/json", headers=headers or None)


def _unauthorized(message: str) -> web.HTTPError:
    return _error(web.HTTPUnauthorized, message, **{"WWW-Authenticate": "Bearer"})


def _body(message: str) -> str:
    return web.json_response({"error": message}).text or ""


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every answer that isn't a success is `{"error": "…"}`."""
    try:
        return await handler(request)
    except NotActingError as error:
        return _problem(503, str(error), {"Retry-After": str(int(REPORT_SECONDS))})
    except web.HTTPRequestEntityTooLarge:
        return _problem(413, f"the body is too large: at most {MAX_REPORT_BYTES} bytes are read")
    except web.HTTPError as error:
        if error.content_type == "application/json":
            raise
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return _problem(error.status, error.reason, allowed)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:  # noqa: BLE001 - the edge: every request gets an answer
        # A fault of ours: the request gets a clear answer, and the log all there is to know.
        structlog.get_logger("windlass.control").exception("control.request_failed", path=request.path)
        return _problem(500, "the operator failed to answer; its log says why")


def _problem(status: int, message: str, headers: dict[str, Any] | None = None) -> web.Response:
    return web.json_response({"error": message}, status=status, headers=headers)
