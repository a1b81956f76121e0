"""Protocol buffers, read without their definitions: where the fields of a message lie.

For what has to be known of a file before anything else opens it. Nothing is copied, so a file of gigabytes that is
mapped costs what is looked at. Whatever a parser of protocol buffers might understand in another way is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_TAG = 2**32

Span = tuple[int, int]
"""Start and end of a length-delimited field's content."""


def fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, Span]]:
    """Number and place of each length-delimited field (messages, strings, bytes) of the message between `start` and
    `end`. Raises `ValueError` for what is no message."""
    while start < end:
        tag, start = _varint(data, start, end)
        number, kind = tag >> 3, tag & 7
        if tag >= _MAX_TAG or number == 0:
            raise ValueError(f"a field's tag is {tag}")
        if kind == _VARINT:
            _, start = _varint(data, start, end)
        elif kind == _FIXED64:
            start += 8
        elif kind == _FIXED32:
            start += 4
        elif kind == _BYTES:
            length, start = _varint(data, start, end)
            if length > end - start:
                raise ValueError("a field goes beyond its message's end")
            yield number, (start, start + length)
            start += length
        else:
            raise ValueError(f"a field of kind {kind}")
        if start > end:
            raise ValueError("a field goes beyond its message's end")


def named(data: memoryview, span: Span, wanted: int) -> Iterator[Span]:
    """Where the length-delimited fields of that number lie. Raises `ValueError`."""
    for number, found in fields(data, *span):
        if number == wanted:
            yield found


def _varint(data: memoryview, start: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if start >= end:
            raise ValueError("a number goes beyond its message's end")
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError("a number of more than ten bytes")
