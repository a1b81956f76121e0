"""A prediction as bytes (in the spool) and as a row. What no database takes is made harmless here."""

from __future__ import annotations

import math
from typing import Any

import orjson

from .prediction import Prediction

MAX_TEXT = 256
_MAX_INT = 2**63 - 1
_MAX_STATUS = 2**31 - 1
_COLUMNS = dict.fromkeys(Prediction._fields)


def encode(prediction: Prediction) -> bytes:
    """JSON of the row. Text is cut at `MAX_TEXT` characters, without NUL and lone surrogates (PostgreSQL takes
    neither); a number that isn't finite becomes null, an endless latency 0.
    """
    row = {
        "id": _text(prediction.id),
        "at": _number(prediction.at) or 0.0,
        "model": _text(prediction.model),
        "version": min(prediction.version, _MAX_INT),
        "digest": _text(prediction.digest),
        "epoch": min(prediction.epoch, _MAX_INT),
        "protocol": _text(prediction.protocol),
        "signature": _text(prediction.signature),
        "latency_seconds": _number(prediction.latency_seconds) or 0.0,
        "status": min(prediction.status, _MAX_STATUS),
        "top_class": None if prediction.top_class is None else _text(prediction.top_class),
        "top_score": None if prediction.top_score is None else _number(prediction.top_score),
        "request_id": _text(prediction.request_id),
    }
    return orjson.dumps(row)


def decode(record: bytes) -> dict[str, Any]:
    """The row of an encoded prediction; what another release added is left out, what it lacked is None. (Bytes that we
    didn't encode don't get here: the spool checks their sum.)"""
    values: dict[str, Any] = orjson.loads(record)
    if values.keys() == _COLUMNS.keys():
        return values  # nearly all
    return {column: values.get(column) for column in _COLUMNS}


def _text(value: str) -> str:
    if len(value) <= MAX_TEXT and value.isascii() and "\x00" not in value:
        return value  # nearly all
    return value[:MAX_TEXT].replace("\x00", "").encode("utf-8", "replace").decode()


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
