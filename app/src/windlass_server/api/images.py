"""Images as model inputs: JPEG, PNG and WebP, measured by their headers before anything is decoded.

Pixels are taken as they are stored: no turning by EXIF, as in `tf.io.decode_image`, which models are trained with.
"""

from __future__ import annotations

import asyncio
import os
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from windlass_contract.manifest import DataType, ImageInput, TensorSpec
from windlass_server.errors import Code, ServingError
from windlass_server.tensors import NUMPY_TYPE, PackedPixels, Tensor, scaled, unpacked

from .limits import Limits
from .signatures import fits, shape_text

_PNG = b"\x89PNG\r\n\x1a\n"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True)
class ImageHeader:
    """What an image's first bytes say of it."""

    format: str
    """As Pillow names it."""
    width: int
    height: int
    frames: int
    """1, or 2 for any animation."""


class ImageDecoding(Protocol):
    """Who decodes images."""

    async def decode(self, data: bytes, header: ImageHeader, how: ImageInput, spec: TensorSpec) -> Tensor:
        """As `image_tensor` or `packed_image`; its header has passed `check_header`. Raises `ServingError`."""
        ...


class ThreadDecoder:
    """In threads of this process, as many images at a time as there are CPUs: for images that one trusts."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(os.cpu_count() or 1)

    async def decode(self, data: bytes, header: ImageHeader, how: ImageInput, spec: TensorSpec) -> Tensor:
        """See `ImageDecoding`."""
        async with self._turns:
            return await asyncio.to_thread(image_tensor, data, header, how, spec)


def looks_like_image(data: bytes) -> bool:
    """By its first bytes."""
    return data.startswith((b"\xff\xd8\xff", _PNG)) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def read_header(data: bytes) -> ImageHeader:
    """Format and size. Raises `ServingError` for anything that isn't a JPEG, PNG or WebP image."""
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as error:
        raise _not_an_image("its header is cut off") from error
    raise _not_an_image("a JPEG, PNG or WebP image is expected")


def _not_an_image(why: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, f"the image can't be read: {why}")


def _png(data: bytes) -> ImageHeader:
    if data[12:16] != b"IHDR":
        raise _not_an_image("its PNG header is broken")
    width, height = struct.unpack_from(">II", data, 16)
    position, frames = 8, 1
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            break
        if kind == b"acTL":
            frames = 2
        position += 12 + length
    return ImageHeader("PNG", width, height, frames)


def _jpeg(data: bytes) -> ImageHeader:
    position = 2
    while True:
        if data[position] != 0xFF:
            raise _not_an_image("its JPEG header is broken")
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker in _JPEG_ALONE:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 3)
            return ImageHeader("JPEG", width, height, 1)
        if marker in {0xDA, 0xD9} or length < 2:
            raise _not_an_image("its JPEG header has no size")
        position += length


def _webp(data: bytes) -> ImageHeader:
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        return ImageHeader("WEBP", width, height, 2 if data[20] & 0x02 else 1)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return ImageHeader("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("WEBP", width & 0x3FFF, height & 0x3FFF, 1)
    raise _not_an_image("its WebP header is broken")


def check_header(header: ImageHeader, limits: Limits) -> None:
    """Raises `ServingError` for more pixels or frames than are allowed."""
    if header.width * header.height > limits.max_image_pixels:
        raise ServingError(
            Code.PAYLOAD_TOO_LARGE,
            f"the image has {header.width} x {header.height} pixels; {limits.max_image_pixels} are decoded: "
            "send a smaller one",
        )
    if header.frames > limits.max_image_frames:
        raise ServingError(Code.INVALID_ARGUMENT, "the image is an animation; send a single picture")
    if not header.width or not header.height:
        raise _not_an_image("it has no pixels")


def image_tensor(data: bytes, header: ImageHeader, how: ImageInput, spec: TensorSpec) -> Tensor:
    """A batch of one image as the manifest says. Takes milliseconds: not for the event loop. Raises `ServingError`."""
    return unpacked(packed_image(data, header, how, spec))


def packed_image(data: bytes, header: ImageHeader, how: ImageInput, spec: TensorSpec) -> Tensor:
    """The same, packed where that is smaller."""
    if spec.datatype is DataType.BYTES:
        return encoded_tensor(data, spec, how)
    pixels = _pixels(data, header, how)
    if how.invert:
        pixels = 255 - pixels
    height, width, channels = how.height, how.width, how.channels
    shapes = [(1, height, width, channels), (1, height * width * channels), (height, width, channels)]
    if channels == 1:
        shapes += [(1, height, width), (height, width)]
    shape = next((shape for shape in shapes if fits(shape, spec)), None)
    if shape is None:
        raise ServingError(
            Code.INTERNAL,
            f"an image of {shape_text(shapes[0])} doesn't fit input '{how.input}' of shape {shape_text(spec.shape)}: "
            "pack the version with image settings that fit its signature",
        )
    dtype, scaling = NUMPY_TYPE[spec.datatype], (how.scale, how.offset)
    if dtype.itemsize == 1:
        return scaled(pixels, scaling, dtype).reshape(shape)
    return PackedPixels.of(pixels, shape, spec.datatype, scaling)


def encoded_tensor(data: bytes, spec: TensorSpec, how: ImageInput) -> Tensor:
    """For a model that decodes images itself. Raises `ServingError`."""
    tensor = np.empty(1, dtype=object)
    tensor[0] = data
    shape = next((shape for shape in ((1,), (1, 1), ()) if fits(shape, spec)), None)
    if shape is None:
        raise ServingError(
            Code.INTERNAL, f"one encoded image doesn't fit input '{how.input}' of shape {shape_text(spec.shape)}"
        )
    return tensor.reshape(shape)


def _pixels(data: bytes, header: ImageHeader, how: ImageInput) -> Tensor:
    """uint8, shape [height, width] or [height, width, channels]."""
    try:
        with Image.open(BytesIO(data), formats=[header.format]) as image:
            if image.size != (header.width, header.height):
                raise _not_an_image("its headers contradict each other")
            if how.decoding == "scaled":
                image.draft(None, (how.width, how.height))  # of a JPEG; does nothing to others
            image.load()
            plain: Image.Image = image
            if image.mode.startswith("I"):  # 16 bits a pixel
                plain = Image.fromarray(np.right_shift(np.asarray(image), 8).astype(np.uint8))
            mode = _MODES[how.channels]
            # Converting what is of that mode already would copy it: three quarters of a megabyte of a photo.
            converted = plain if plain.mode == mode else plain.convert(mode)
            resized = converted.resize((how.width, how.height), _RESAMPLING[how.resampling])
            return np.asarray(resized)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, struct.error) as error:
        raise _not_an_image(str(error)) from error
