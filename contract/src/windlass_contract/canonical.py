"""Canonical JSON and the digests made from it.

Canonical: UTF-8, keys sorted by code point, no white space, no NaN, numbers as Python's `json` writes them
(the shortest form that reads back equal). Two documents that mean the same have the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """The one encoding of a JSON value that digests are made from. Raises `ValueError` for NaN and infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def digest_of_bytes(data: bytes) -> str:
    """`sha256:` and the sum of the bytes, in hex."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of(value: Any) -> str:
    """The digest of a JSON value: of its canonical encoding."""
    return digest_of_bytes(canonical_json(value))
