"""Which method each signature of a SavedModel is for: predict, classify or regress.

`tf.saved_model.load` doesn't say, and parsing the file again would take its size in memory once more (weights may stand
in it). So this walks the protocol buffer's fields and skips what it doesn't need.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_META_GRAPHS = 2  # of SavedModel
_META_INFO, _SIGNATURE_DEF = 1, 5  # of MetaGraphDef
_TAGS = 4  # of MetaInfoDef
_KEY, _VALUE = 1, 2  # of a map's entry
_METHOD_NAME = 3  # of SignatureDef
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def methods(path: Path, tag: str = "serve") -> dict[str, str]:
    """Signature to `method_name`, e.g. `tensorflow/serving/predict`, of the meta graph with that tag. Raises
    `ValueError` for a file that is no SavedModel."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        data = memoryview(content)
        try:
            return _methods(data, tag)
        finally:
            data.release()


def _methods(data: memoryview, tag: str) -> dict[str, str]:
    for start, end in _fields(data, 0, len(data), _META_GRAPHS):
        tags = [
            bytes(data[a:b])
            for info in _fields(data, start, end, _META_INFO)
            for a, b in _fields(data, info[0], info[1], _TAGS)
        ]
        if tag.encode() in tags:
            found = {}
            for entry in _fields(data, start, end, _SIGNATURE_DEF):
                name = "".join(_text(data, *part) for part in _fields(data, *entry, _KEY))
                for value in _fields(data, *entry, _VALUE):
                    found[name] = "".join(_text(data, *part) for part in _fields(data, *value, _METHOD_NAME))
            return found
    return {}


def _text(data: memoryview, start: int, end: int) -> str:
    return bytes(data[start:end]).decode()


def _fields(data: memoryview, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Where the length-delimited fields of that number lie."""
    while start < end:
        tag, start = _varint(data, start, end)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, start = _varint(data, start, end)
        elif kind == _FIXED64:
            start += 8
        elif kind == _FIXED32:
            start += 4
        elif kind == _BYTES:
            length, start = _varint(data, start, end)
            if start + length > end:
                raise ValueError("a field goes beyond the end")
            if number == wanted:
                yield start, start + length
            start += length
        else:
            raise ValueError(f"a field of kind {kind}")


def _varint(data: memoryview, start: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if start >= end:
            raise ValueError("a number goes beyond the end")
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError("a number of more than ten bytes")
