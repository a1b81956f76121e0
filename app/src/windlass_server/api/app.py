"""The replica's HTTP application: every protocol on one port."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Sequence

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from windlass_server.health import HealthSource
from windlass_server.hosting.hosting import Hosting
from windlass_server.predictions.prediction import PredictionSink

from .access import ApiKeys, KeyGuard
from .bodies import Bodies
from .cors import Cors
from .docs import DOCS_PATTERN, Docs
from .exchange import Answer, Handler, ProtocolRoute, Request, json_answer, method_not_allowed
from .health import health_handlers
from .images import ImageDecoding, ThreadDecoder
from .json_work import JsonWork, WorkHere
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
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


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
    bodies: Bodies | None = None,
    json: JsonWork | None = None,
) -> ASGIApp:
    """The application over what is hosted.

    `instance` goes into `X-Instance`. `metrics` are answered on `/metrics` and TensorFlow Serving's
    `/monitoring/prometheus/metrics` where they have no port of their own. `strict_tfs`: `/v1/` bodies without KServe's
    fields. `keys`: those that may ask (None: everyone). `cors_origins`: whose web pages may.
    `images`: who decodes images (None: threads of this process). `bodies`: counts what is received (None: its own).
    `json`: who reads and writes large JSON (None: threads of this process).
    Errors are `{"error": "…"}`; each answer has an `X-Request-Id`, the client's or a new one.
    """
    bounds = limits or Limits()
    bodies = bodies or Bodies()
    service = Service(hosting, instance, bounds, json or WorkHere(bounds), predictions, strict_tfs)
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
    api = FastAPI(title="Windlass", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    api.router.routes[:] = [ProtocolRoute(pattern, handler, bounds, bodies) for pattern, handler in others.items()]
    api.openapi = lambda: describe(service)  # type: ignore[method-assign]
    hot = [ProtocolRoute(pattern, handler, bounds, bodies) for pattern, handler in predicting.items()]
    app: ASGIApp = HotRoutes(hot, api)
    if keys is not None:
        app = KeyGuard(app, keys)
    if cors_origins:  # around the keys: a preflight carries none, and a page may see that it was refused
        app = Cors(app, cors_origins)
    return RequestIds(app)


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


class RequestIds:
    """Gives each request an id: the client's `X-Request-Id` if it is printable and short, else a new one.

    It goes on the answer, into the log's context and into the prediction log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        # Ids are no secrets, and the system needn't be asked for each.
        request_id = given if _REQUEST_ID.fullmatch(given) else b"%032x" % random.getrandbits(128)
        text = request_id.decode()
        scope.setdefault("state", {})["request_id"] = text
        structlog.contextvars.bind_contextvars(request_id=text)  # the server gives each request a context of its own

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)
