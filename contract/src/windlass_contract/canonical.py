"""Canonical JSON and the digests made from it.

Canonical: UTF-8, keys sorted by code point, no white space, no NaN, numbers as Python's `json` writes them
(the shortest form that reads back equal), whole ones below 2**53 without a fraction. Two documents that mean the same
have the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

_EXACT = 2**53


def canonical_json(value: Any) -> bytes:
    """The one encoding of a JSON value that digests are made from. Raises `ValueError` for NaN and infinity,
    `TypeError` for what JSON hasn't.
    """
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    """1.0 and 1 are the same number, and mean the same; keys are text, sorted as text."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    if isinstance(value, dict):
        return {_key(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _key(key: Any) -> str:
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise TypeError(f"{key!r} can't be a key: text is expected")
    return str(key)


def digest_of_bytes(data: bytes) -> str:
    """`sha256:` and the sum of the bytes, in hex."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of(value: Any) -> str:
    """The digest of a JSON value: of its canonical encoding."""
    return digest_of_bytes(canonical_json(value))
