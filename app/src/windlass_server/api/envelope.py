"""Around every request and answer: an id, a count, and the end of the connection while draining."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from windlass_server.logs import request_id_of_task

from .bodies import Bodies
from .json_work import JsonWork

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_PROTOCOLS = (("/v1/", "tfs_v1"), ("/v2", "oip_v2"), ("/predict", "predict"))
_CLOSE = (b"connection", b"close")


@dataclass
class Traffic:
    """What is counted of HTTP, for the metrics."""

    bodies: Bodies
    json: JsonWork
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By protocol and status."""


class Envelope:
    """Gives each request an id: the client's `X-Request-Id` if it is printable and short, else a new one. It goes on
    the answer, into the log's lines and into the prediction log."""

    def __init__(self, app: ASGIApp, traffic: Traffic, is_draining: Callable[[], bool]) -> None:
        self._app = app
        self._answers = traffic.answers
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        text = request_id.decode()
        scope.setdefault("state", {})["request_id"] = text
        request_id_of_task.set(text)  # the server gives each request a task, and so a context, of its own

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answers[_protocol(scope["path"]), message["status"]] += 1
                headers = [*message["headers"], (b"x-request-id", request_id)]
                if self._is_draining():
                    # The client's next request opens a connection to who takes it, not to who is leaving.
                    headers.append(_CLOSE)
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_marked)


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            if _REQUEST_ID.fullmatch(value):
                return bytes(value)
            break
    # Ids are no secrets, and the system needn't be asked for each.
    return b"%032x" % random.getrandbits(128)


def _protocol(path: str) -> str:
    for prefix, name in _PROTOCOLS:
        if path.startswith(prefix):
            return name
    return "other"
