"""The most frequent body, read at once: `{"instances": [[…], …]}`, rows of as many numbers each and nothing besides.

What it returns is what the whole reading of TensorFlow Serving's JSON makes of the same body; of everything else, wrong
or merely rare, it knows nothing.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import orjson

from windlass_contract.manifest import DataType, Signature
from windlass_server.tensors import NUMPY_TYPE, Tensor

from .limits import Limits
from .signatures import fits

MOST_BYTES = 16 * 1024
"""In larger ones the rows themselves are what takes the time."""
_HEAD = re.compile(rb'\s*+\{\s*+"instances"\s*+:')
_NUMBERS = b"-+0123456789.eE[], \t\r\n"
"""All that stands in lists of numbers."""
_LARGEST = {
    DataType.FP32: float(np.finfo(np.float32).max),
    DataType.FP64: float(np.finfo(np.float64).max),
}


def read_plain_rows(body: bytes, limits: Limits) -> list[Any] | None:
    """The rows of such a body, or of one that looks like it, within the bounds of JSON; None: it doesn't."""
    # No value takes less than a byte, and no level less than a bracket.
    if len(body) > min(MOST_BYTES, limits.max_json_bytes, limits.max_json_elements):
        return None
    head = _HEAD.match(body)
    if head is None or body[-1:] != b"}" or body.count(b"[") >= limits.max_json_depth:
        return None
    text = body[head.end() : -1]
    if text.translate(None, _NUMBERS):
        return None
    try:
        rows = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return rows if isinstance(rows, list) else None


def tensor_of_plain_rows(rows: list[Any], signature: Signature) -> dict[str, Tensor] | None:
    """The rows as the signature's only input; None: they have to be looked at one by one."""
    if len(signature.inputs) != 1:
        return None
    ((name, spec),) = signature.inputs.items()
    largest = _LARGEST.get(spec.datatype)
    if largest is None:
        return None
    try:
        width = len(rows[0])
        for row in rows:
            # There is no NaN here; a list among the numbers can't be compared with one.
            if len(row) != width or not (-largest <= min(row) and max(row) <= largest):
                return None
        if not fits((len(rows), width), spec):
            return None
    except (TypeError, ValueError, IndexError):
        return None
    return {name: np.array(rows, dtype=NUMPY_TYPE[spec.datatype])}
