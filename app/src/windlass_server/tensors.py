"""Element types in their three names (Open Inference Protocol, TensorFlow, numpy), and tensors as bytes.

BYTES tensors are numpy arrays of dtype object holding `bytes`; where they are only passed on, `PackedStrings` spares an
object for each of a million elements, and `PackedPixels` three bytes of four of an image. Raw form is the Open
Inference Protocol's: little endian, row-major; BOOL one byte per element; BYTES four bytes of length (little endian)
and the bytes, per element.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from windlass_contract.manifest import DataType

Tensor = NDArray[Any]

NUMPY_TYPE: dict[DataType, np.dtype[Any]] = {
    DataType.BOOL: np.dtype(np.bool_),
    DataType.UINT8: np.dtype("<u1"),
    DataType.UINT16: np.dtype("<u2"),
    DataType.UINT32: np.dtype("<u4"),
    DataType.UINT64: np.dtype("<u8"),
    DataType.INT8: np.dtype("<i1"),
    DataType.INT16: np.dtype("<i2"),
    DataType.INT32: np.dtype("<i4"),
    DataType.INT64: np.dtype("<i8"),
    DataType.FP16: np.dtype("<f2"),
    DataType.BF16: np.dtype(ml_dtypes.bfloat16),
    DataType.FP32: np.dtype("<f4"),
    DataType.FP64: np.dtype("<f8"),
    DataType.BYTES: np.dtype(object),
}

TENSORFLOW_NAME: dict[DataType, str] = {
    DataType.BOOL: "DT_BOOL",
    DataType.UINT8: "DT_UINT8",
    DataType.UINT16: "DT_UINT16",
    DataType.UINT32: "DT_UINT32",
    DataType.UINT64: "DT_UINT64",
    DataType.INT8: "DT_INT8",
    DataType.INT16: "DT_INT16",
    DataType.INT32: "DT_INT32",
    DataType.INT64: "DT_INT64",
    DataType.FP16: "DT_HALF",
    DataType.BF16: "DT_BFLOAT16",
    DataType.FP32: "DT_FLOAT",
    DataType.FP64: "DT_DOUBLE",
    DataType.BYTES: "DT_STRING",
}

_ZERO = bytes(8)
"""Of any type of number."""
_SMALL_BYTES = 4096
"""Up to here copying a tensor costs less than making a view of its memory."""
_BY_NUMPY = {dtype: datatype for datatype, dtype in NUMPY_TYPE.items()}


def datatype_of(tensor: Tensor) -> DataType:
    """The element type of an array. Raises `ValueError` for one that no protocol knows (complex, datetime)."""
    known = _BY_NUMPY.get(tensor.dtype)
    if known is not None:
        return known
    if tensor.dtype.kind in "SUO":
        return DataType.BYTES
    try:
        return _BY_NUMPY[tensor.dtype.newbyteorder("<") if tensor.dtype.byteorder == ">" else tensor.dtype]
    except KeyError:
        raise ValueError(f"no tensor type for elements of {tensor.dtype}") from None


def shape_fits(shape: Sequence[int], wanted: Sequence[int] | None) -> bool:
    """Whether rank and dimensions are those of a signature, where it fixes them: -1 is any; None, any rank."""
    if wanted is None:
        return True
    if len(shape) != len(wanted):
        return False
    for given, dimension in zip(shape, wanted, strict=True):  # noqa: SIM110 - for each request, and twice as fast so
        if dimension not in (given, -1):
            return False
    return True


def element_count(shape: Sequence[int]) -> int:
    """Product of the dimensions, exact: numpy's own overflows in silence."""
    count = 1
    for dimension in shape:
        count *= dimension
    return count


class PackedStrings(np.ndarray[Any, Any]):
    """A BYTES tensor that stays in its raw form: shape and datatype are there, elements only after `unpacked`."""

    raw: memoryview

    @classmethod
    def of(cls, data: bytes | memoryview, shape: Sequence[int]) -> PackedStrings:
        """`data`: the raw form of so many elements, which isn't looked into. Raises `ValueError` when there are more
        than it can hold."""
        if any(dimension < 0 for dimension in shape) or element_count(shape) * 4 > len(data):
            raise ValueError(f"{len(data)} bytes can't hold the elements of shape {list(shape)}")
        # All elements are one: None, whose use as bytes is an error.
        nothing = np.broadcast_to(np.array(None, dtype=object), tuple(shape))
        packed = nothing.view(cls)
        packed.raw = memoryview(data)
        return packed


class PackedPixels(np.ndarray[Any, Any]):
    """Numbers that are a byte each, scaled: a quarter of the bytes to pass on. Shape and datatype are there, elements
    only after `unpacked`."""

    pixels: Tensor
    """uint8, of as many elements."""
    scaling: tuple[float, float]
    """Scale and offset."""

    @classmethod
    def of(cls, pixels: Tensor, shape: Sequence[int], datatype: DataType, scaling: tuple[float, float]) -> PackedPixels:
        """Each element is pixel * scale + offset. Raises `ValueError` when there aren't as many as that, for BYTES, and
        for a scale or an offset that is no finite number."""
        if any(dimension < 0 for dimension in shape) or element_count(shape) != pixels.size:
            raise ValueError(f"{pixels.size} bytes aren't the elements of shape {list(shape)}")
        if datatype is DataType.BYTES or not all(isinstance(each, float | int) for each in scaling):
            raise ValueError("pixels stand for numbers")
        if not all(math.isfinite(each) for each in scaling):
            raise ValueError(f"pixels can't be scaled by {scaling}")
        # All elements are one, a zero that can't be written to.
        packed = cls(tuple(shape), NUMPY_TYPE[datatype], _ZERO, 0, (0,) * len(shape))
        packed.pixels, packed.scaling = pixels, scaling
        return packed


def scaled(pixels: Tensor, scaling: tuple[float, float], dtype: np.dtype[Any]) -> Tensor:
    """pixels * scale + offset in single precision; whole numbers are rounded, and kept within what the type holds."""
    scale, offset = scaling
    if scale == 1 and offset == 0:
        return pixels.astype(dtype)
    values = pixels.astype(np.float32)
    values *= np.float32(scale)
    values += np.float32(offset)
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        values = np.clip(np.rint(values), bounds.min, bounds.max)
    whole: Tensor = values.astype(dtype, copy=False)
    return whole


def unpacked(tensor: Tensor) -> Tensor:
    """With its elements. Raises `ValueError` when the raw form of packed strings is broken."""
    if isinstance(tensor, PackedStrings):
        return from_raw(tensor.raw, DataType.BYTES, tensor.shape)
    if isinstance(tensor, PackedPixels):
        return scaled(tensor.pixels, tensor.scaling, tensor.dtype).reshape(tensor.shape)
    return tensor


def raw_size(tensor: Tensor) -> int:
    """Bytes of the tensor, in its raw form where it is packed."""
    return len(tensor.raw) if isinstance(tensor, PackedStrings) else tensor.nbytes


def unpacked_size(tensors: Iterable[Tensor]) -> int:
    """Bytes that pixels among them take more when they are unpacked."""
    return sum(tensor.nbytes - tensor.pixels.nbytes for tensor in tensors if isinstance(tensor, PackedPixels))


def to_raw(tensor: Tensor) -> bytes | memoryview:
    """The raw form of a tensor."""
    if isinstance(tensor, PackedStrings):
        return tensor.raw
    if isinstance(tensor, PackedPixels):
        tensor = unpacked(tensor)
    if datatype_of(tensor) is DataType.BYTES:
        parts: list[bytes] = []
        for element in tensor.ravel():
            data = element.encode() if isinstance(element, str) else bytes(element)
            parts += (struct.pack("<I", len(data)), data)
        return b"".join(parts)
    if tensor.nbytes <= _SMALL_BYTES and tensor.dtype.byteorder != ">":
        return tensor.tobytes()
    contiguous = np.ascontiguousarray(tensor)
    if contiguous.dtype.byteorder == ">":
        contiguous = contiguous.astype(contiguous.dtype.newbyteorder("<"))
    return contiguous.reshape(-1).view(np.uint8).data


def from_raw(data: bytes | bytearray | memoryview, datatype: DataType, shape: Sequence[int]) -> Tensor:
    """A tensor from its raw form; numbers share the buffer. Raises `ValueError` when sizes don't agree exactly,
    before anything is allocated.
    """
    count = 1
    for dimension in shape:
        if dimension < 0:
            raise ValueError(f"shape {list(shape)} has a negative dimension")
        count *= dimension
    if datatype is DataType.BYTES:
        view = memoryview(data)
        if count * 4 > len(view):
            raise ValueError(f"{len(view)} bytes can't hold {count} elements")
        elements = np.empty(count, dtype=object)
        position = 0
        for index in range(count):
            if position + 4 > len(view):
                raise ValueError(f"element {index} has no length")
            (length,) = struct.unpack_from("<I", view, position)
            position += 4
            if position + length > len(view):
                raise ValueError(f"element {index} of {length} bytes goes beyond the end")
            elements[index] = bytes(view[position : position + length])
            position += length
        if position != len(view):
            raise ValueError(f"{len(view) - position} bytes are left over")
        return elements.reshape(tuple(shape))
    dtype = NUMPY_TYPE[datatype]
    if count * dtype.itemsize != len(data):
        raise ValueError(f"{count * dtype.itemsize} bytes are expected for shape {list(shape)}, got {len(data)}")
    if datatype is DataType.BOOL:
        return np.frombuffer(data, dtype=np.uint8).astype(np.bool_).reshape(tuple(shape))
    return np.ndarray(tuple(shape), dtype, data)
