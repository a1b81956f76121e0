"""TensorFlow Serving's JSON, to the letter: requests in rows (`instances`) or columns (`inputs`) and their answers.

Types are strict, as there: `true` is no float, `1.0` no int32, `1` no bool. Values are converted in bulk; only when
that fails is the request walked in TensorFlow Serving's own order, to find the error it would name.

Two deviations, both on the safe side. Integers are checked against the real range of int8, uint8 and int16, which
TensorFlow Serving wraps in silence; a float32 beyond its range is refused instead of becoming infinite.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from windlass_contract.manifest import DataType, Signature
from windlass_server.errors import Code, ServingError
from windlass_server.tensors import NUMPY_TYPE, TENSORFLOW_NAME, Tensor, datatype_of

from .json_text import dump_numbers, shown

TYPE_NAME = {
    datatype: {"DT_HALF": "half", "DT_STRING": "string"}.get(name, name.removeprefix("DT_").lower())
    for datatype, name in TENSORFLOW_NAME.items()
}
"""TensorFlow's names as they stand in error messages."""
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_NOT_IN_JSON = {DataType.FP16, DataType.BF16}
_PLAIN_TYPES: dict[DataType, frozenset[type]] = {
    **{datatype: frozenset({int}) for datatype in DataType},
    DataType.FP32: frozenset({int, float}),
    DataType.FP64: frozenset({int, float}),
    DataType.BOOL: frozenset({bool}),
    DataType.BYTES: frozenset({str, dict}),
}


class InvalidValueError(Exception):
    """A value that doesn't fit; the message is TensorFlow Serving's."""

    def __init__(self, message: str, code: Code = Code.INVALID_ARGUMENT) -> None:
        super().__init__(message)
        self.message = message
        self.code = code

    def as_status(self) -> str:
        """As it is quoted within another message."""
        return f"{self.code}: {self.message}"


def parse_predict(document: dict[str, Any], signature: Signature) -> tuple[dict[str, Tensor], bool]:
    """Input tensors of a request, and whether they came in rows. Raises `ServingError`."""
    try:
        return _parse_predict(document, signature)
    except InvalidValueError as error:
        raise ServingError(error.code, error.message) from error


def _parse_predict(document: dict[str, Any], signature: Signature) -> tuple[dict[str, Tensor], bool]:
    if "instances" in document:
        if "inputs" in document:
            raise format_error(
                document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
            )
        rows = document["instances"]
        if not isinstance(rows, list):
            raise format_error(document, "Expecting 'instances' to be an list/array")
        if not rows:
            raise format_error(document, "No values in 'instances' array")
        return _parse_rows(rows, signature), True
    if "inputs" in document:
        return _parse_columns(document["inputs"], signature), False
    raise InvalidValueError("Missing 'inputs' or 'instances' key")


def format_error(value: Any, message: str) -> InvalidValueError:
    """`JSON Value: … <message>`."""
    return InvalidValueError(f"JSON Value: {shown(value)} {message}")


def _parse_rows(rows: list[Any], signature: Signature) -> dict[str, Tensor]:
    inputs = signature.inputs
    if not isinstance(rows[0], dict) and len(inputs) > 1:
        raise InvalidValueError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    if not _is_named(rows[0]):
        name, spec = next(iter(inputs.items()))
        tensor = _dense(rows, spec.datatype)
        if tensor is None:
            raise _explain_plain_rows(rows, spec.datatype)
        return {name: tensor}
    if all(_is_named(row) and row.keys() == inputs.keys() for row in rows):
        tensors = {name: _dense([row[name] for row in rows], spec.datatype) for name, spec in inputs.items()}
        done = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        if len(done) == len(inputs):
            return done
    raise _explain_named_rows(rows, signature)


def _parse_columns(value: Any, signature: Signature) -> dict[str, Tensor]:
    inputs = signature.inputs
    if not _is_named(value):
        if len(inputs) > 1:
            raise InvalidValueError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        name, spec = next(iter(inputs.items()))
        return {name: _column(value, spec.datatype)}
    tensors = {}
    for name, spec in inputs.items():
        if name not in value:
            raise InvalidValueError(f"Missing named input: {name} in 'inputs' object.")
        tensors[name] = _column(value[name], spec.datatype)
    return tensors


def _column(value: Any, datatype: DataType) -> Tensor:
    tensor = _dense(value, datatype)
    if tensor is None:
        _fill(value, _dense_shape(value), 0, datatype)
        raise AssertionError("a value that can't be converted has a reason")
    return tensor


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _dense(value: Any, datatype: DataType) -> Tensor | None:
    """Bulk conversion; None when something about the value is wrong."""
    if datatype in _NOT_IN_JSON:
        return None
    shape = _dense_shape(value)
    level = [value]
    for size in shape:
        if len(level) == 1:  # of one row there is nothing to be joined
            if not isinstance(level[0], list) or len(level[0]) != size:
                return None
            level = level[0]
            continue
        if not (set(map(type, level)) <= {list} and set(map(len, level)) <= {size}):
            return None
        level = list(itertools.chain.from_iterable(level))
    if not set(map(type, level)) <= _PLAIN_TYPES[datatype]:
        return None
    flat = _bytes_array(level) if datatype is DataType.BYTES else _number_array(level, datatype)
    return None if flat is None else flat.reshape(shape)


def _number_array(values: list[Any], datatype: DataType) -> Tensor | None:
    dtype = NUMPY_TYPE[datatype]
    if datatype is DataType.FP32:
        if values and min(values) >= -_MAX_FLOAT32 and max(values) <= _MAX_FLOAT32:
            # NaN compares with nothing: it is passed over, or fails a comparison and is looked at below.
            return np.array(values, dtype=np.float32)
        wide = np.array(values, dtype=np.float64)
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float32)
        return None if not np.array_equal(np.isinf(wide), np.isinf(narrow)) else narrow
    try:
        return np.array(values, dtype=dtype)
    except OverflowError:
        return None


def _bytes_array(values: list[Any]) -> Tensor | None:
    flat = np.empty(len(values), dtype=object)
    try:
        for index, value in enumerate(values):
            flat[index] = value.encode() if isinstance(value, str) else decode_base64(value)
    except InvalidValueError:
        return None
    return flat


def _dense_shape(value: Any) -> tuple[int, ...]:
    """Sizes along the first elements, as TensorFlow Serving guesses the shape."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def decode_base64(value: dict[str, Any]) -> bytes:
    """The bytes of `{"b64": "…"}`; padding may be missing. Raises `InvalidValueError`."""
    if not _is_base64(value):
        raise InvalidValueError(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidValueError("Unable to base64 decode") from error


def json_type(value: Any) -> str:
    """A JSON type as RapidJSON calls it."""
    match value:
        case None:
            return "Null"
        case True:
            return "True"
        case False:
            return "False"
        case dict():
            return "Object"
        case list():
            return "Array"
        case str():
            return "String"
    return "Number"


def _fill(value: Any, shape: tuple[int, ...], level: int, datatype: DataType) -> int:
    """Walks a value as TensorFlow Serving does and counts its elements. Raises the first `InvalidValueError`."""
    if not isinstance(value, list):
        if level != len(shape):
            raise InvalidValueError(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        _check_value(value, datatype)
        return 1
    if level >= len(shape):
        raise InvalidValueError(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise InvalidValueError(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    return sum(_fill(element, shape, level + 1, datatype) for element in value)


def _check_value(value: Any, datatype: DataType) -> None:
    name = TYPE_NAME[datatype]
    if isinstance(value, dict) and datatype is DataType.BYTES:
        decode_base64(value)
        return
    wrong_type = InvalidValueError(
        f"JSON Value: {shown(value)} Type: {json_type(value)} is not of expected type: {name}"
    )
    if isinstance(value, dict):
        raise wrong_type
    if datatype in _NOT_IN_JSON:
        raise InvalidValueError(f"Conversion of JSON Value: {shown(value)} to type: {name}", Code.UNIMPLEMENTED)
    if type(value) not in _PLAIN_TYPES[datatype]:
        raise wrong_type
    if datatype is not DataType.BYTES and _number_array([value], datatype) is None:
        if datatype is DataType.FP32:
            raise InvalidValueError(f"Cannot convert JSON value: {shown(value)} to float without loss of precision.")
        raise wrong_type


class _Rows:
    """What TensorFlow Serving remembers of the rows it has read: they must all look like the first."""

    def __init__(self, inputs: Mapping[str, DataType]) -> None:
        self._inputs = inputs
        self._seen: dict[str, tuple[int, tuple[int, ...]]] = {}

    def add(self, value: Any, name: str) -> None:
        if name not in self._inputs:
            raise InvalidValueError(f"JSON object: does not have named input: {name}")
        shape = _dense_shape(value)
        size = _fill(value, shape, 0, self._inputs[name])
        first_size, first_shape = self._seen.setdefault(name, (size, shape))
        if size != first_size:
            raise InvalidValueError(f"Expecting tensor size: {first_size} but got: {size}")
        if shape != first_shape:
            raise InvalidValueError(
                f"Expecting shape [{','.join(map(str, first_shape))}] but got: [{','.join(map(str, shape))}]"
            )


def _explain_plain_rows(rows: list[Any], datatype: DataType) -> InvalidValueError:
    checker = _Rows({"": datatype})
    for index, row in enumerate(rows):
        if _is_named(row):
            return InvalidValueError(f"Expecting value/list but got object at item {index} of input list")
        try:
            checker.add(row, "")
        except InvalidValueError as error:
            return InvalidValueError(
                f"Failed to process element: {index} of 'instances' list. Error: {error.as_status()}"
            )
    raise AssertionError("rows that can't be converted have a reason")


def _explain_named_rows(rows: list[Any], signature: Signature) -> InvalidValueError:
    checker = _Rows({name: spec.datatype for name, spec in signature.inputs.items()})
    for index, row in enumerate(rows):
        if not _is_named(row):
            return InvalidValueError(f"Expecting object but got list at item {index} of input list")
        for name, value in row.items():
            try:
                checker.add(value, name)
            except InvalidValueError as error:
                return InvalidValueError(
                    f"Failed to process element: {index} key: {name} of 'instances' list. Error: {error.as_status()}"
                )
        if row.keys() != signature.inputs.keys():
            return InvalidValueError(
                f"Failed to process element: {index} of 'instances' list. JSON object: {shown(row)} "
                f"keys must be equal to: {','.join(sorted(signature.inputs))}"
            )
    raise AssertionError("rows that can't be converted have a reason")


def format_rows(outputs: Mapping[str, Tensor]) -> bytes:
    """`{"predictions": […]}`, one entry per row. Raises `ServingError` for outputs that have no common rows."""
    size = -1
    for name, tensor in outputs.items():
        if tensor.ndim == 0:
            raise ServingError(Code.INVALID_ARGUMENT, f"Tensor name: {name} has no shape information ")
        if size >= 0 and tensor.shape[0] != size:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Tensor name: {name} has inconsistent batch size: {tensor.shape[0]} expecting: {size}",
            )
        size = tensor.shape[0]
    if len(outputs) == 1:
        return b'{"predictions":' + _dump(*next(iter(outputs.items()))) + b"}"
    rows = [
        {name: orjson.Fragment(_dump(name, tensor[index : index + 1])[1:-1]) for name, tensor in outputs.items()}
        for index in range(size)
    ]
    return b'{"predictions":' + orjson.dumps(rows) + b"}"


def format_columns(outputs: Mapping[str, Tensor]) -> bytes:
    """`{"outputs": …}`: the value of the only output, or an object by name. Raises `ServingError`."""
    if len(outputs) == 1:
        return b'{"outputs":' + _dump(*next(iter(outputs.items()))) + b"}"
    named = {name: orjson.Fragment(_dump(name, tensor)) for name, tensor in outputs.items()}
    return b'{"outputs":' + orjson.dumps(named) + b"}"


def _dump(name: str, tensor: Tensor) -> bytes:
    datatype = datatype_of(tensor)
    if datatype in _NOT_IN_JSON:
        raise ServingError(Code.INVALID_ARGUMENT, f"Failed to write JSON value for tensor type: {TYPE_NAME[datatype]}")
    if datatype is not DataType.BYTES:
        return dump_numbers(tensor)
    as_base64 = name.endswith("_bytes")
    elements = np.empty(tensor.size, dtype=object)
    for index, element in enumerate(tensor.ravel()):
        elements[index] = _dump_bytes(element, as_base64)
    return orjson.dumps(elements.reshape(tensor.shape).tolist())


def _dump_bytes(element: Any, as_base64: bool) -> Any:
    data = element.encode() if isinstance(element, str) else bytes(element)
    if not as_base64:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass  # no text: it travels as bytes do, instead of breaking the answer's JSON
    return {"b64": base64.b64encode(data).decode()}
