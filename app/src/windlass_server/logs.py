"""Structured logs on standard error: JSON for machines, text for people. Libraries' lines go through the same pipe."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Literal

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

request_id_of_task: ContextVar[str] = ContextVar("request_id_of_task")
"""Set while a request is worked on: structlog's own variables cost several times as much."""


def configure_logs(form: Literal["json", "console"], level: str) -> None:
    """Sets up structlog and the standard library's logging. A request's id is on each line logged for it."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.processors.StackInfoRenderer(),
    ]
    if form == "json":
        # Without the local variables: they may hold secrets and clients' data.
        tracebacks = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
        renderer: list[Processor] = [tracebacks, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        renderer = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Its lifecycle is told in our own words, and a line per request is what metrics and the prediction log are for.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(
        logging.ERROR
    )  # it tells of each client's mistake; the client is told
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True


def _add_request_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    request_id = request_id_of_task.get(None)
    if request_id is not None:
        event.setdefault("request_id", request_id)
    return event
