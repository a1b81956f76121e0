"""`/livez`, `/readyz` and `/health`, for GET and HEAD."""

from __future__ import annotations

from windlass_server.health import HealthSource, http_status

from .exchange import Answer, Handler, Request, json_answer, method_not_allowed

_NO_CACHE = {"cache-control": "no-store"}


def health_handlers(source: HealthSource) -> dict[str, Handler]:
    """Path to handler."""

    async def livez(request: Request) -> Answer:
        return _answer(request, *source.live())

    async def readyz(request: Request) -> Answer:
        return _answer(request, *source.ready())

    async def health(request: Request) -> Answer:
        if request.method not in {"GET", "HEAD"}:
            return method_not_allowed("GET", "HEAD")
        body = source.health()
        return json_answer(body.model_dump(mode="json", by_alias=True), http_status(body), _NO_CACHE)

    return {"/livez": livez, "/readyz": readyz, "/health": health}


def _answer(request: Request, good: bool, reasons: list[str]) -> Answer:
    if request.method not in {"GET", "HEAD"}:
        return method_not_allowed("GET", "HEAD")
    body = {"status": "ok" if good else "unavailable", "reasons": reasons}
    return json_answer(body, 200 if good else 503, _NO_CACHE)
