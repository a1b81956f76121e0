"""Tensors of the Open Inference Protocol v2: in JSON, or as raw bytes behind it.

Sizes are multiplied out, exactly, and compared with what was sent before anything is allocated.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from windlass_contract.manifest import MAX_DIMENSION, DataType, TensorSpec
from windlass_server.errors import Code, ServingError
from windlass_server.tensors import NUMPY_TYPE, Tensor, datatype_of, element_count, from_raw, to_raw

from .json_text import dump_numbers, shown

MAX_RANK = 16
_NOT_IN_JSON = {DataType.FP16, DataType.BF16}
_FLOATS = {DataType.FP32, DataType.FP64}


def refuse(message: str) -> ServingError:
    """400."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def read_shape(value: Any, name: str, max_elements: int) -> tuple[int, ...]:
    """A shape from a request. Raises `ServingError` when it is none, or has more elements than are allowed."""
    if not isinstance(value, list) or any(type(size) is not int for size in value):
        raise refuse(f"'shape' of input '{name}' must be a list of integers, got {shown(value)}")
    if len(value) > MAX_RANK:
        raise refuse(f"input '{name}' has rank {len(value)}; at most {MAX_RANK} is supported")
    for size in value:
        if not 0 <= size <= MAX_DIMENSION:
            raise refuse(f"input '{name}' has dimension {size}: 0 to {MAX_DIMENSION} is expected")
    # Zeros don't count: numpy refuses shapes whose other dimensions overflow.
    if element_count([size for size in value if size]) > max_elements:
        raise ServingError(
            Code.PAYLOAD_TOO_LARGE, f"input '{name}' of shape {value} has more than the {max_elements} elements allowed"
        )
    return tuple(value)


def read_datatype(value: Any, name: str) -> DataType:
    """A datatype from a request. Raises `ServingError`."""
    try:
        return DataType(value)
    except ValueError:
        raise refuse(f"input '{name}' has unknown 'datatype' {shown(value)}: one of {', '.join(DataType)}") from None


def from_json(data: Any, datatype: DataType, shape: tuple[int, ...], name: str) -> Tensor:
    """A tensor from nested or flat JSON data, row-major. Types are strict. Raises `ServingError`."""
    if datatype in _NOT_IN_JSON:
        raise refuse(
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}"
        )
    values = data if isinstance(data, list) else [data]
    while list in set(map(type, values)):
        if not all(type(value) is list for value in values):
            raise refuse(f"'data' of input '{name}' mixes lists and values")
        values = list(itertools.chain.from_iterable(values))
    expected = element_count(shape)
    if len(values) != expected:
        raise refuse(f"'data' of input '{name}' has {len(values)} elements; shape {list(shape)} has {expected}")
    allowed: set[type] = {int}
    if datatype in _FLOATS:
        allowed = {int, float}
    elif datatype is DataType.BOOL:
        allowed = {bool}
    elif datatype is DataType.BYTES:
        allowed = {str}
    if not set(map(type, values)) <= allowed:
        odd = next(value for value in values if type(value) not in allowed)
        raise refuse(f"'data' of input '{name}' holds {shown(odd)}, which is no {datatype}")
    return _array(values, datatype, name).reshape(shape)


def _array(values: list[Any], datatype: DataType, name: str) -> Tensor:
    if datatype is DataType.BYTES:
        elements = np.empty(len(values), dtype=object)
        elements[:] = [value.encode() for value in values]
        return elements
    try:
        if datatype is not DataType.FP32:
            return np.array(values, dtype=NUMPY_TYPE[datatype])
        wide = np.array(values, dtype=np.float64)
    except OverflowError:
        raise refuse(f"'data' of input '{name}' holds a number beyond the range of {datatype}") from None
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    if not np.array_equal(np.isinf(wide), np.isinf(narrow)):
        raise refuse(f"'data' of input '{name}' holds a number beyond the range of {datatype}")
    return narrow


def from_binary(data: memoryview, datatype: DataType, shape: tuple[int, ...], name: str, model: str) -> Tensor:
    """A tensor from its raw form, which must have exactly the size of its shape. Raises `ServingError`."""
    try:
        return from_raw(data, datatype, shape)
    except ValueError as error:
        raise refuse(f"unexpected size for input '{name}' for model '{model}': {error}") from error


def from_raw_body(body: bytes, spec: TensorSpec, name: str, model: str) -> Tensor:
    """The only input, when the whole body is it: a batch of one. Raises `ServingError`."""
    if spec.datatype is DataType.BYTES:
        if spec.shape is not None and any(size not in {-1, 1} for size in spec.shape):
            raise refuse(f"input '{name}' of shape {spec.shape} isn't one element: a raw request can't fill it")
        element = np.empty(1, dtype=object)
        element[0] = body
        return element.reshape([1] * len(spec.shape if spec.shape is not None else [1]))
    if spec.shape is None:
        raise refuse(f"input '{name}' has no fixed rank: a raw request can't fill it; send its shape")
    shape = list(spec.shape)
    if shape[:1] == [-1]:
        shape[0] = 1
    if shape.count(-1) > 1:
        raise refuse(f"input '{name}' has several variable dimensions {spec.shape}: send its shape")
    if -1 in shape:
        known = element_count([size for size in shape if size != -1]) * NUMPY_TYPE[spec.datatype].itemsize
        if not known or len(body) % known:
            raise refuse(
                f"unexpected size for input '{name}' for model '{model}': {len(body)} bytes don't fill {spec.shape}"
            )
        shape[shape.index(-1)] = len(body) // known
    return from_binary(memoryview(body), spec.datatype, tuple(shape), name, model)


def to_json(tensor: Tensor, name: str) -> bytes:
    """An output's `data` as flat JSON. Raises `ServingError` for what JSON can't say."""
    datatype = datatype_of(tensor)
    if datatype in _NOT_IN_JSON:
        raise refuse(
            f"sending {datatype} data via JSON is not supported. Please use the binary data format for output {name}"
        )
    if datatype is not DataType.BYTES:
        return dump_numbers(tensor.reshape(-1))
    try:
        return orjson.dumps(
            [element if isinstance(element, str) else bytes(element).decode() for element in tensor.ravel()]
        )
    except UnicodeDecodeError as error:
        raise refuse(
            f"output '{name}' isn't UTF-8 text. Please use the binary data format for output {name}"
        ) from error


def to_binary(tensor: Tensor) -> bytes:
    """An output's raw form."""
    return bytes(to_raw(tensor))


def shape_of(tensor: Tensor) -> Sequence[int]:
    """As it stands in an answer."""
    return list(tensor.shape)
