"""Hostile images."""

from __future__ import annotations

import io
import struct
import zlib
from types import SimpleNamespace

import pytest
from PIL import Image


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, bits: int = 1, colour: int = 0, rows: int | None = None) -> bytes:
    """A black PNG that says it has this size; `rows` of them are really there (default: all)."""
    row = 1 + (width * bits * {0: 1, 2: 3, 6: 4}[colour] + 7) // 8
    packer = zlib.compressobj(9)
    data = bytearray()
    left = row * (height if rows is None else rows)
    while left:
        piece = min(left, 1 << 20)
        data += packer.compress(bytes(piece))
        left -= piece
    data += packer.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", bytes(data)) + _chunk(b"IEND", b"")


def picture(width: int = 32, height: int = 32, form: str = "PNG") -> bytes:
    """A plain grey one."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (128, 128, 128)).save(stream, form)
    return stream.getvalue()


@pytest.fixture
def images() -> SimpleNamespace:
    """Makers of images."""
    return SimpleNamespace(png=png, picture=picture)
