"""The replica's HTTP application: every protocol on one port."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from windlass_server.garbage import imported_late
from windlass_server.health import HealthSource
from windlass_server.hosting.hosting import Hosting
from windlass_server.predictions.prediction import PredictionSink

from .access import ApiKeys, KeyGuard
from .bodies import Bodies
from .cors import Cors
from .docs import DOCS_PATTERN, Docs
from .envelope import Envelope, Traffic
from .exchange import Answer, Handler, ProtocolRoute, Request, json_answer, method_not_allowed
from .health import health_handlers
from .images import ImageDecoding, ThreadDecoder
from .json_work import WorkHere
from .limits import Limits
from .oip_v2 import PATTERN as V2
from .oip_v2 import OipV2
from .openapi import describe
from .predict import PATTERN as PREDICT
from .predict import Predict
from .serving import Service
from .tfs_v1 import PATTERN as V1
from .tfs_v1 import TfsV1

MetricsText = Callable[[], Awaitable[tuple[bytes, str]]]
"""The metrics and their content type."""


def create_app(
    hosting: Hosting,
    *,
    instance: str,
    limits: Limits | None = None,
    predictions: PredictionSink | None,
    health: HealthSource,
    metrics: MetricsText | None = None,
    strict_tfs: bool = False,
    keys: ApiKeys | None = None,
    cors_origins: Sequence[str] = (),
    images: ImageDecoding | None = None,
    traffic: Traffic | None = None,
    is_draining: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """The application over what is hosted.

    `instance` goes into `X-Instance`. `metrics` are answered on `/metrics` and TensorFlow Serving's
    `/monitoring/prometheus/metrics` where they have no port of their own. `strict_tfs`: `/v1/` bodies without KServe's
    fields. `keys`: those that may ask (None: everyone). `cors_origins`: whose web pages may.
    `images`: who decodes images (None: threads of this process). `traffic`: counts bodies and answers, and names who
    reads and writes large JSON (None: nobody looks at the counts, and threads of this process). `is_draining`: clients
    are to open no further request on their connections.
    Errors are `{"error": "…"}`; each answer has an `X-Request-Id`, the client's or a new one.
    """
    bounds = limits or Limits()
    traffic = traffic or Traffic(Bodies(), WorkHere(bounds))
    bodies = traffic.bodies
    service = Service(hosting, instance, bounds, traffic.json, predictions, strict_tfs)
    predicting: dict[str, Handler] = {
        V1: TfsV1(service),
        V2: OipV2(service, health),
        PREDICT: Predict(service, images or ThreadDecoder()),
        **{re.escape(path): handler for path, handler in health_handlers(health).items()},
    }
    others: dict[str, Handler] = {DOCS_PATTERN: Docs(lambda: describe(service)), "/": _alive}
    if metrics is not None:
        others[r"/metrics|/monitoring/prometheus/metrics"] = _metrics_handler(metrics)
    others[".*"] = _not_found
    hot = [ProtocolRoute(pattern, handler, bounds, bodies) for pattern, handler in predicting.items()]
    rest = [ProtocolRoute(pattern, handler, bounds, bodies) for pattern, handler in others.items()]
    app: ASGIApp = HotRoutes(hot, AtFirstNeed(lambda: _fastapi(rest, lambda: describe(service))))
    if keys is not None:
        app = KeyGuard(app, keys)
    if cors_origins:  # around the keys: a preflight carries none, and a page may see that it was refused
        app = Cors(app, cors_origins)
    return Envelope(app, traffic, is_draining)


class HotRoutes:
    """Predictions and health are answered before FastAPI: the layers that it puts around each request take longer than
    all that is done here for one, and these routes use none of them. Whatever else is asked is FastAPI's."""

    def __init__(self, routes: Sequence[ProtocolRoute], rest: ASGIApp) -> None:
        self._routes = routes
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] == "http":
            path = scope["path"]
            for route in self._routes:
                if route.answers(path):
                    await route.handle(scope, receive, send)
                    return
        await self._rest(scope, receive, send)


class AtFirstNeed:
    """FastAPI, imported when something is asked that is its: that takes 0.12 s and 7 MB, which a replica that answers
    predictions has no use for. In a thread, so that those are answered meanwhile."""

    def __init__(self, make: Callable[[], ASGIApp]) -> None:
        self._make = make
        self._making: asyncio.Future[ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if self._making is None:
            self._making = asyncio.ensure_future(asyncio.to_thread(self._make))
        # A client that leaves meanwhile doesn't take it from the others.
        app = await asyncio.shield(self._making)
        await app(scope, receive, send)


def _fastapi(routes: Sequence[ProtocolRoute], description: Callable[[], dict[str, Any]]) -> ASGIApp:
    from fastapi import FastAPI  # see `AtFirstNeed`

    imported_late()
    api = FastAPI(title="Windlass", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    api.router.routes[:] = routes
    api.openapi = description  # type: ignore[method-assign]
    return api


async def _alive(request: Request) -> Answer:
    """What KServe's v1 client asks for liveness."""
    if request.method not in {"GET", "HEAD"}:
        return method_not_allowed("GET", "HEAD")
    return json_answer({"status": "alive"})


async def _not_found(request: Request) -> Answer:
    return json_answer({"error": f"there is nothing at {request.path[:200]}; /docs lists what there is"}, 404)


def _metrics_handler(metrics: MetricsText) -> Handler:
    async def handle(request: Request) -> Answer:
        if request.method not in {"GET", "HEAD"}:
            return method_not_allowed("GET", "HEAD")
        body, content_type = await metrics()
        return Answer(200, body, content_type)

    return handle
