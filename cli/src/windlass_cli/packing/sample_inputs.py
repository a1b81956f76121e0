"""Inputs for parity samples: made up by a signature, the same ones for the same seed. Needs numpy."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windlass_contract.manifest import DataType, ImageInput, Signature, TensorSpec

Arrays = dict[str, NDArray[Any]]

BATCH = 4
_UNKNOWN_RANK = [-1, 1]
_INTEGERS = {
    DataType.INT8: np.int8,
    DataType.INT16: np.int16,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.UINT16: np.uint16,
    DataType.UINT32: np.uint32,
    DataType.UINT64: np.uint64,
}
_TEXTS = [b"a rope, a drum and a handle", b"hoist", b"lower away", b"the quick brown fox jumps over the lazy dog"]


def attempts(
    name: str, signature: Signature, image: ImageInput | None, picture: Callable[[int], bytes]
) -> Iterator[tuple[str, Arrays]]:
    """What was tried, and inputs of a few rows: the likeliest first. A model may refuse some (an index beyond its
    vocabulary, bytes that are no picture), so the caller takes the first that it answers.

    `picture(seed)` gives an encoded image.
    """
    texts = any(spec.datatype is DataType.BYTES for spec in signature.inputs.values())
    for open_size in (8, 32, 1, 224) if _has_open_sizes(signature) else (1,):
        for below in (10, 2):
            for pictures in (False, True) if texts else (False,):
                made = {
                    key: _array(spec, _random(name, key), open_size, below, _range(image, name, key, spec))
                    for key, spec in sorted(signature.inputs.items())
                }
                if pictures:
                    for key, spec in signature.inputs.items():
                        if spec.datatype is DataType.BYTES:
                            made[key] = _filled(made[key].shape, [picture(index) for index in range(BATCH)])
                kind = "pictures" if pictures else f"integers below {below}"
                yield f"{kind}, open sizes {open_size}", made


def given(arrays: Mapping[str, NDArray[Any]], name: str, signature: Signature, source: str) -> Arrays:
    """Inputs that a person gave: names as in the signature (`input:` before them is allowed), cast to its types.
    Raises `ValueError` that says what doesn't fit."""
    plain = {key.removeprefix("input:"): value for key, value in arrays.items() if not key.startswith("output:")}
    if set(plain) != set(signature.inputs):
        raise ValueError(f"{source} has inputs {sorted(plain)}, signature {name!r} takes {sorted(signature.inputs)}")
    result: Arrays = {}
    for key, spec in signature.inputs.items():
        value = plain[key]
        if spec.shape is not None and (
            value.ndim != len(spec.shape)
            or any(wanted not in {-1, found} for wanted, found in zip(spec.shape, value.shape, strict=True))
        ):
            raise ValueError(f"{source}: input {key!r} has shape {list(value.shape)}, {spec.shape} is expected")
        result[key] = value.astype(object) if spec.datatype is DataType.BYTES else value.astype(dtype_of(spec.datatype))
    return result


def dtype_of(datatype: DataType) -> np.dtype[Any]:
    """numpy's type for an element type; of BYTES: object."""
    if datatype is DataType.BYTES:
        return np.dtype(object)
    if datatype is DataType.BF16:
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    names = {DataType.BOOL: "bool", DataType.FP16: "float16", DataType.FP32: "float32", DataType.FP64: "float64"}
    return np.dtype(names.get(datatype, datatype.value.lower()))


def _array(
    spec: TensorSpec, random: np.random.Generator, open_size: int, below: int, span: tuple[float, float] | None
) -> NDArray[Any]:
    sizes = _UNKNOWN_RANK if spec.shape is None else spec.shape
    shape = tuple(
        (BATCH if position == 0 else open_size) if size == -1 else size for position, size in enumerate(sizes)
    )
    datatype = spec.datatype
    if datatype is DataType.BYTES:
        return _filled(shape, _TEXTS)
    if datatype is DataType.BOOL:
        return random.integers(0, 2, shape).astype(np.bool_)
    if datatype is DataType.UINT8:
        return random.integers(0, 256, shape).astype(np.uint8)
    if datatype in _INTEGERS:
        return random.integers(0, below, shape).astype(_INTEGERS[datatype])
    if span is not None:
        return random.uniform(*span, shape).astype(dtype_of(datatype))
    return random.standard_normal(shape).astype(dtype_of(datatype))


def _range(image: ImageInput | None, signature: str, key: str, spec: TensorSpec) -> tuple[float, float] | None:
    """Least and greatest value of a pixel; None: it is no image, as far as one can see."""
    if image is not None and (image.signature, image.input) == (signature, key):
        ends = (image.offset, 255 * image.scale + image.offset)
        return min(ends), max(ends)
    if spec.shape is not None and len(spec.shape) == 4 and spec.shape[-1] in {1, 3, 4}:
        return 0.0, 1.0
    return None


def _has_open_sizes(signature: Signature) -> bool:
    return any(-1 in (spec.shape or [])[1:] for spec in signature.inputs.values())


def _filled(shape: tuple[int, ...], elements: list[bytes]) -> NDArray[Any]:
    array = np.empty(shape, dtype=object)
    for index in range(array.size):
        array.flat[index] = elements[index % len(elements)]
    return array


def _random(*names: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(names).encode()))
