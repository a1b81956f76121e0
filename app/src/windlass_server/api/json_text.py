"""JSON in and out: bounded before it is parsed, with NaN and Infinity, and with numbers that come back the same.

orjson does the work; what it refuses (NaN and Infinity tokens, which TensorFlow Serving accepts) is parsed once more
by Python's own parser.
"""

from __future__ import annotations

import gc
import json
import math
import re
from typing import Any

import numpy as np
import orjson

from windlass_server.errors import Code, ServingError
from windlass_server.tensors import Tensor

from .limits import Limits

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STRING = re.compile(rb'"[^"]*"?')
_ALL_BUT_STRUCTURE = bytes(set(range(256)) - set(b'[]{},"'))
_INTEGER_AT_END = re.compile(r"(?<![\d.eE+-])-?\d+$", re.ASCII)
_NUMBER_AT_END = re.compile(r"(?<![\d.eE+-])-?\d+(\.\d+)?$", re.ASCII)
_HEX_AT_END = re.compile(r"u[0-9a-fA-F]{4}")
_MAX_SHOWN = 256
_MOST_DIGITS = 310
"""A double ends at 309; Python itself takes no more than 4300, since it takes quadratic time."""
_LARGE = 256 * 1024
_INSTEAD = "send binary tensors, or several requests"


class JsonSyntaxError(ValueError):
    """Not JSON: the reason in RapidJSON's words, which clients of TensorFlow Serving know, and the byte's offset."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} at offset: {offset}")


def check_bounds(body: bytes, limits: Limits) -> None:
    """Raises `ServingError` when the JSON is larger, deeper or has more values than is allowed. Parses nothing."""
    if len(body) > limits.max_json_bytes:
        raise ServingError(
            Code.PAYLOAD_TOO_LARGE,
            f"the JSON has {len(body)} bytes; {limits.max_json_bytes} are read: {_INSTEAD}",
        )
    opened = body.count(b"[") + body.count(b"{")
    if opened <= limits.max_json_depth and opened + body.count(b",") <= limits.max_json_elements:
        return
    structure = _structure(body)
    elements = structure.count(b",") + structure.count(b"[") + structure.count(b"{")
    if elements > limits.max_json_elements:
        raise ServingError(
            Code.PAYLOAD_TOO_LARGE,
            f"the JSON has about {elements} values; {limits.max_json_elements} are read: {_INSTEAD}",
        )
    codes = np.frombuffer(structure.translate(None, b","), dtype=np.uint8)
    steps = np.where((codes == ord("[")) | (codes == ord("{")), 1, -1).astype(np.int32)
    depth = int(np.cumsum(steps).max(initial=0))
    if depth > limits.max_json_depth:
        raise ServingError(
            Code.INVALID_ARGUMENT, f"the JSON is nested {depth} deep; {limits.max_json_depth} levels are read"
        )


def _structure(body: bytes) -> bytes:
    """The brackets and commas outside of strings."""
    if b"\\" in body:
        body = _ESCAPE.sub(b"", body)
    # Most strings hold none of them and are two quotes now. Taking pairs out first leaves the same things outside of
    # strings, and spares the expression a list of a million pieces.
    return _STRING.sub(b"", body.translate(None, _ALL_BUT_STRUCTURE).replace(b'""', b""))


def parse(body: bytes, limits: Limits, *, trailing: bool = False) -> Any:
    """Decodes JSON that may hold NaN, Infinity and -Infinity. `trailing`: what follows the value is ignored.

    Raises `JsonSyntaxError`, and `ServingError` when it is beyond the bounds.
    """
    check_bounds(body, limits)
    try:
        return _loads(body)
    except orjson.JSONDecodeError:
        return _parse_leniently(body, trailing)


def _loads(body: bytes) -> Any:
    if len(body) < _LARGE or not gc.isenabled():
        return orjson.loads(body)
    # A million new lists make the collector walk them all again and again, in vain: parsing takes three times as long.
    gc.disable()
    try:
        return orjson.loads(body)
    finally:
        gc.enable()


class _TooBigError(Exception):
    def __init__(self, token: str) -> None:
        self.token = token


def _finite(token: str) -> float:
    value = float(token)
    if math.isinf(value):
        raise _TooBigError(token)
    return value


def _whole(token: str) -> int:
    if len(token) > _MOST_DIGITS:
        raise _TooBigError(token)
    return int(token)


_decoder = json.JSONDecoder(parse_float=_finite, parse_int=_whole)


def _parse_leniently(body: bytes, trailing: bool) -> Any:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise JsonSyntaxError("Invalid encoding in string.", error.start) from error
    start = len(text) - len(text.lstrip(" \t\n\r"))
    if start == len(text):
        raise JsonSyntaxError("The document is empty.", len(body))
    try:
        value, end = _decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise _in_rapidjson_words(text, error) from error
    except _TooBigError as error:
        position = text.index(error.token)
        raise JsonSyntaxError("Number too big to be stored in double.", _offset(text, position)) from error
    if not trailing and text[end:].strip(" \t\n\r"):
        raise JsonSyntaxError("The document root must not be followed by other values.", _offset(text, end))
    if "\\u" in text and _has_lone_surrogate(value):
        position = text.lower().index("\\ud")
        raise JsonSyntaxError("The surrogate pair in string is invalid.", _offset(text, position))
    return value


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _offset(text: str, position: int) -> int:
    return len(text[:position].encode())


def _in_rapidjson_words(text: str, error: json.JSONDecodeError) -> JsonSyntaxError:
    """The same mistake as RapidJSON sees it: Python's parser stops at the same place, or a few characters before."""
    position, end = error.pos, len(text)
    before, after = text[: error.pos], text[error.pos :]
    match error.msg:
        case "Expecting property name enclosed in double quotes" | "Illegal trailing comma before end of object":
            reason = "Missing a name for object member."
        case "Expecting ':' delimiter":
            reason = "Missing a colon after a name of object member."
        case "Expecting ',' delimiter" if after.startswith(".") and _INTEGER_AT_END.search(before):
            reason, position = "Miss fraction part in number.", position + 1
        case "Expecting ',' delimiter" if after.startswith(("e", "E")) and _NUMBER_AT_END.search(before):
            reason, position = "Miss exponent in number.", position + (2 if after[1:2] in {"+", "-"} else 1)
        case "Expecting ',' delimiter":
            reason = (
                "Missing a comma or ] after an array element."
                if _innermost(before.encode()) == "["
                else "Missing a comma or } after an object member."
            )
        case message if message.startswith("Unterminated string"):
            reason, position = "Missing a closing quotation mark in string.", end
            if (end - len(text.rstrip("\\"))) % 2:
                reason, position = "Invalid escape character in string.", end - 1
        case message if message.startswith("Invalid \\u"):
            reason, position = "Incorrect hex digit after \\u escape in string.", position - 1
            if _HEX_AT_END.fullmatch(after):
                reason, position = "Missing a closing quotation mark in string.", end
        case message if message.startswith("Invalid \\escape"):
            reason = "Invalid escape character in string."
        case message if message.startswith("Invalid control character"):
            reason = "Invalid encoding in string."
        case _:
            reason, position = "Invalid value.", position + _literal_prefix(after)
    return JsonSyntaxError(reason, _offset(text, position))


def _literal_prefix(text: str) -> int:
    """How much of `true`, `false`, `null` or a sign stands there: it is read before the mistake is seen."""
    literal = {"t": "true", "f": "false", "n": "null", "-": "-"}.get(text[:1], "")
    return next((size for size in range(len(literal), 0, -1) if text.startswith(literal[:size])), 0)


def _innermost(body: bytes) -> str:
    """The bracket that is open at the end."""
    brackets = _structure(body).translate(None, b",")
    depth = 0
    for code in reversed(brackets):
        depth += 1 if code in b"]}" else -1
        if depth < 0:
            return chr(code)
    return ""


def shown(value: Any) -> str:
    """A JSON value for an error message, indented as TensorFlow Serving's, cut after 256 bytes."""
    parts: list[str] = []
    _show(value, 0, parts, [_MAX_SHOWN])
    return "".join(parts)


def _show(value: Any, indent: int, parts: list[str], room: list[int]) -> None:
    if room[0] <= 0:
        return
    if isinstance(value, dict):
        _add("{", parts, room)
        for index, (key, member) in enumerate(value.items()):
            if room[0] <= 0:
                return
            _add(
                "," * (index > 0) + "\n" + "    " * (indent + 1) + json.dumps(key, ensure_ascii=False) + ": ",
                parts,
                room,
            )
            _show(member, indent + 1, parts, room)
        _add(("\n" + "    " * indent) * bool(value) + "}", parts, room)
    elif isinstance(value, list):
        _add("[", parts, room)
        for index, element in enumerate(value):
            if room[0] <= 0:
                return
            _add(", " * (index > 0), parts, room)
            _show(element, indent, parts, room)
        _add("]", parts, room)
    else:
        text = value if isinstance(value, str) else None
        short = text[:_MAX_SHOWN] if text is not None else value
        _add(json.dumps(short, ensure_ascii=False), parts, room)


def _add(text: str, parts: list[str], room: list[int]) -> None:
    if room[0] > 0:
        parts.append(text)
        room[0] -= len(text)


def dump_numbers(tensor: Tensor) -> bytes:
    """A number or bool tensor as nested JSON lists (rank 0: the value itself).

    Floats are the shortest text that reads back the same in their own precision; whole ones keep `.0`; NaN and
    infinities are bare tokens; 64-bit integers are exact.
    """
    if tensor.ndim == 0:
        return dump_numbers(tensor.reshape(1))[1:-1]
    text = orjson.dumps(np.ascontiguousarray(tensor), option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" not in text:
        return text
    # orjson writes null where a number isn't finite: they are put in by position.
    flat = tensor.reshape(-1)
    odd = flat[~np.isfinite(flat)]
    pieces = text.split(b"null")
    tokens = [b"NaN" if math.isnan(value) else b"Infinity" if value > 0 else b"-Infinity" for value in odd.tolist()]
    woven = [part for pair in zip(pieces, [*tokens, b""], strict=True) for part in pair]
    return b"".join(woven)
