"""`/docs` and `/openapi.json`, without anything from another host: a closed network has documentation too."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from .exchange import Answer, Request, json_answer, method_not_allowed

DOCS_PATTERN = r"/openapi\.json|/docs(/(swagger-ui-bundle\.js|swagger-ui\.css|favicon\.png))?"
_TYPES = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "png": "image/png"}


class Docs:
    """The handler of the description and of Swagger UI, whose files a package brings along. FastAPI is imported where
    it is needed: see `app.AtFirstNeed`."""

    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        self._describe = describe

    async def __call__(self, request: Request) -> Answer:
        """Answers one request."""
        if request.method not in {"GET", "HEAD"}:
            return method_not_allowed("GET", "HEAD")
        path = str(request.scope["path"]).lower()
        if path == "/openapi.json":
            return json_answer(self._describe())
        if path == "/docs":
            return Answer(200, _page(), "text/html; charset=utf-8")
        name = path.rpartition("/")[2]
        return Answer(
            200,
            files("fastapi_offline").joinpath("static", name).read_bytes(),
            _TYPES[name.rpartition(".")[2]],
            {"cache-control": "public, max-age=86400"},
        )


def _page() -> bytes:
    from fastapi.openapi.docs import get_swagger_ui_html

    # Relative addresses work behind a proxy that adds a prefix.
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Windlass",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
        swagger_ui_parameters={"tryItOutEnabled": True, "validatorUrl": None},
    )
    return bytes(page.body)
