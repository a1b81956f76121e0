"""The channel's frames: a prefix, a JSON head and the raw tensors behind it, the same in both directions.

Prefix: length of the head, length of the body (both without the prefix). The head is padded with spaces so that the
body begins at a multiple of 64, and so does each tensor in it: where the buffer is aligned, so are the tensors.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson

from windlass_contract.manifest import DataType
from windlass_server.tensors import PackedPixels, PackedStrings, Tensor, datatype_of, from_raw, to_raw

PREFIX = struct.Struct("<IQ")
MAX_HEAD_BYTES = 1024 * 1024
ALIGNMENT = 64
MAX_BUFFERS = 512
"""How many pieces one `sendmsg` takes; Linux allows 1024."""

_ZEROS = bytes(ALIGNMENT)
_DATATYPES = {datatype.value: datatype for datatype in DataType}
_JOINED_BYTES = 4096
"""Up to here a body is copied behind its head: one piece costs less than several."""

Buffer = bytes | bytearray | memoryview


class FrameError(Exception):
    """The other side sent what it may not: nothing of it is to be believed any more."""


def encode(head: dict[str, Any], tensors: Mapping[str, Tensor] | None = None) -> list[Buffer]:
    """The pieces of a frame, in order. Large numeric tensors are not copied. Raises `ValueError` for a type that no
    protocol knows, and for a head beyond its bound."""
    body: list[Buffer] = []
    listed: list[tuple[Any, ...]] = []
    size = 0
    for name, tensor in (tensors or {}).items():
        if isinstance(tensor, PackedPixels):
            raw = to_raw(tensor.pixels)
            listed.append((name, datatype_of(tensor), tensor.shape, len(raw), tensor.scaling))
        else:
            raw = to_raw(tensor)
            listed.append((name, datatype_of(tensor), tensor.shape, len(raw)))
        length = len(raw)
        body.append(raw)
        if padding := -length % ALIGNMENT:
            body.append(_ZEROS[:padding])
        size += length + padding
    data = orjson.dumps({**head, "tensors": listed} if listed else head)
    data = data.ljust(len(data) + -len(data) % ALIGNMENT)
    if len(data) > MAX_HEAD_BYTES:
        raise ValueError(f"a head of {len(data)} bytes; at most {MAX_HEAD_BYTES} are sent")
    prefix = PREFIX.pack(len(data), size)
    if size <= _JOINED_BYTES:
        return [b"".join((prefix, data, *body))]
    return [prefix + data, *body]


def size_of(pieces: Iterable[Buffer]) -> int:
    """Bytes on the wire."""
    size = 0
    for piece in pieces:
        size += len(piece)
    return size


def lengths(prefix: Buffer, max_body_bytes: int) -> tuple[int, int]:
    """Lengths of head and body. Raises `FrameError` when one is beyond its bound: before anything is allocated."""
    head, body = PREFIX.unpack_from(prefix)
    if head > MAX_HEAD_BYTES:
        raise FrameError(f"a frame's head of {head} bytes; at most {MAX_HEAD_BYTES} are taken")
    if body > max_body_bytes:
        raise FrameError(f"a frame of {body} bytes; at most {max_body_bytes} are taken")
    return head, body


def allocate(size: int) -> memoryview:
    """A buffer that nobody filled with zeros first, aligned as numpy aligns."""
    return np.empty(size, dtype=np.uint8).data


def decode(
    payload: memoryview, head_bytes: int, pack_from: int | None = None, *, pixels: bool = False
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Head and tensors of a frame; numeric tensors share its memory. `pack_from`: BYTES tensors of at least so many
    bytes stay packed, and unchecked. `pixels`: the other side may send packed ones, and they stay so; they are larger
    than what was received. Raises `FrameError`."""
    try:
        head = orjson.loads(payload[:head_bytes])
        tensors: dict[str, Tensor] = {}
        position = head_bytes
        for name, datatype, shape, size, *scaling in head.pop("tensors", ()):
            piece = _piece(payload, position, size)
            if scaling:
                tensors[name] = _packed_pixels(piece, shape, datatype, scaling if pixels else None)
            elif datatype == DataType.BYTES and pack_from is not None and size >= pack_from:
                tensors[name] = PackedStrings.of(piece, shape)
            else:
                tensors[name] = from_raw(piece, _DATATYPES[datatype], shape)
            position += size + -size % ALIGNMENT
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise FrameError(f"a frame that can't be read: {error}") from error
    return head, tensors


def _packed_pixels(piece: memoryview, shape: Any, datatype: str, scaling: list[Any] | None) -> Tensor:
    if scaling is None:
        raise ValueError("pixels where none are expected")
    ((scale, offset),) = scaling
    return PackedPixels.of(np.frombuffer(piece, np.uint8), shape, _DATATYPES[datatype], (scale, offset))


def _piece(payload: memoryview, start: int, size: int) -> memoryview:
    if not 0 <= size <= len(payload) - start:
        raise ValueError("a tensor goes beyond the end")
    return payload[start : start + size]


def advance(pieces: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of a frame after `sent` bytes of it."""
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[index + 1 :]]
        sent -= len(piece)
    return []
