"""The operators of a TFLite file, read without LiteRT.

The file is a FlatBuffer: tables whose fields are found by offsets, each of which is checked before it is followed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_IDENTIFIER = b"TFL3"
_OPERATOR_CODES = 1  # field of Model
_KNOWN_MODEL_FIELDS = 8  # version … signature_defs
_DEPRECATED_BUILTIN, _CUSTOM_CODE, _BUILTIN = 0, 1, 3  # fields of OperatorCode
_CUSTOM = 32  # BuiltinOperator.CUSTOM
_MAX_OPERATOR_CODES = 100_000


def custom_operators(data: memoryview) -> list[str]:
    """Names of the custom operators that the file declares (Flex operators are called `Flex…`); sorted, each once.
    Raises `ValueError` for what is no TFLite file, and for one whose weights are in other files."""
    try:
        return sorted({_string(data, code, _CUSTOM_CODE) for code in _codes(data) if _builtin(data, code) == _CUSTOM})
    except struct.error:
        raise ValueError("an offset leads out of the file") from None


def builtin_operators(data: memoryview) -> frozenset[int]:
    """Their numbers, as `BuiltinOperator` of TensorFlow's schema.fbs has them; 32 stands for all custom ones. Raises as
    `custom_operators`."""
    try:
        return frozenset(_builtin(data, code) for code in _codes(data))
    except struct.error:
        raise ValueError("an offset leads out of the file") from None


def _codes(data: memoryview) -> Iterator[int]:
    """Where the OperatorCodes are."""
    if bytes(data[4:8]) != _IDENTIFIER:
        raise ValueError("it is no TFLite file: the identifier TFL3 is missing")
    model = _indirect(data, 0)
    for number in range(_KNOWN_MODEL_FIELDS, _field_count(data, model)):
        if _field(data, model, number):
            raise ValueError("it keeps weights in other files; convert it into one file")
    position = _field(data, model, _OPERATOR_CODES)
    if position:
        vector = _indirect(data, position)
        (count,) = struct.unpack_from("<I", data, vector)
        if count > _MAX_OPERATOR_CODES:
            raise ValueError(f"it declares {count} operators; at most {_MAX_OPERATOR_CODES} are read")
        for index in range(count):
            yield _indirect(data, vector + 4 + 4 * index)


def _builtin(data: memoryview, code: int) -> int:
    """The older field holds what fits into a byte, and else a number that stands for the newer one."""
    older, newer = _number(data, code, _DEPRECATED_BUILTIN, "<b"), _number(data, code, _BUILTIN, "<i")
    return _CUSTOM if _CUSTOM in (older, newer) else max(older, newer)


def _indirect(data: memoryview, position: int) -> int:
    (offset,) = struct.unpack_from("<I", data, position)
    return position + int(offset)


def _vtable(data: memoryview, table: int) -> int:
    (offset,) = struct.unpack_from("<i", data, table)
    position = table - int(offset)
    if position < 0:
        raise ValueError("an offset leads out of the file")
    return position


def _field_count(data: memoryview, table: int) -> int:
    (size,) = struct.unpack_from("<H", data, _vtable(data, table))
    return (int(size) - 4) // 2


def _field(data: memoryview, table: int, number: int) -> int:
    """Where a field's value is; 0: it has its default."""
    if number >= _field_count(data, table):
        return 0
    (offset,) = struct.unpack_from("<H", data, _vtable(data, table) + 4 + 2 * number)
    return table + int(offset) if offset else 0


def _number(data: memoryview, table: int, number: int, kind: str) -> int:
    position = _field(data, table, number)
    return int(struct.unpack_from(kind, data, position)[0]) if position else 0


def _string(data: memoryview, table: int, number: int) -> str:
    position = _field(data, table, number)
    if not position:
        return ""
    start = _indirect(data, position)
    (length,) = struct.unpack_from("<I", data, start)
    return bytes(data[start + 4 : start + 4 + min(length, 200)]).decode("utf-8", "replace")
