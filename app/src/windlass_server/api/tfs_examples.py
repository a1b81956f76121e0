"""classify and regress: rows of features become serialised `tf.train.Example`s, which such signatures take.

The messages are few and fixed, so they are written here: TensorFlow isn't imported where requests arrive.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from windlass_contract.manifest import DataType, Signature
from windlass_server.errors import Code, ServingError
from windlass_server.tensors import TENSORFLOW_NAME, Tensor, datatype_of

from .json_text import dump_numbers
from .tfs_json import TYPE_NAME, InvalidValueError, decode_base64, format_error, json_type

_METHOD = "tensorflow/serving/"
_MAX_INT64 = 2**63 - 1


def parse_examples(document: dict[str, Any]) -> Tensor:
    """Serialised examples of a request, a BYTES tensor of shape [n]. Raises `ServingError`."""
    try:
        return _parse_examples(document)
    except InvalidValueError as error:
        raise ServingError(error.code, error.message) from error


def _parse_examples(document: dict[str, Any]) -> Tensor:
    # Two messages in a row are merged when read, so the context goes in front of each example.
    context = _example(document["context"]) if "context" in document else b""
    if "examples" not in document:
        raise format_error(document, "When method is classify, key 'examples' is expected and was not found")
    examples = document["examples"]
    if not isinstance(examples, list):
        raise format_error(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise format_error(document, "'examples' value is an empty array")
    tensor = np.empty(len(examples), dtype=object)
    for index, example in enumerate(examples):
        tensor[index] = context + _example(example)
    return tensor


def _example(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise InvalidValueError(f"Example must be JSON object but got JSON {json_type(value)}")
    features = b""
    for name, content in value.items():
        feature = _feature(name, content if isinstance(content, list) else [content])
        features += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, features) if features else b""


def _feature(name: str, values: list[Any]) -> bytes:
    kind: str | None = None
    items: list[Any] = []
    for value in values:
        this, item = _item(name, value)
        if kind is not None and this != kind:
            raise InvalidValueError(f"Unexpected element type in feature: {name} expecting type: {kind}")
        kind = this
        items.append(item)
    match kind:
        case "bytes":
            return _field(1, b"".join(_field(1, item) for item in items))
        case "float":
            packed = np.array(items, dtype=np.float64)
            with np.errstate(over="ignore"):
                return _field(2, _field(1, packed.astype("<f4").tobytes()))
        case "int64":
            return _field(3, _field(1, b"".join(_varint(item & (2**64 - 1)) for item in items)))
    return b""


def _item(name: str, value: Any) -> tuple[str, Any]:
    match value:
        case bool():
            return "int64", int(value)
        case int() if value > _MAX_INT64:
            raise InvalidValueError(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        case int():
            return "int64", value
        case float():
            return "float", value
        case str():
            return "bytes", value.encode()
        case {"b64": str()} if len(value) == 1:
            return "bytes", decode_base64(value)
    raise InvalidValueError(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return struct.pack("B", number << 3 | 2) + _varint(len(data)) + data


def check_signature(signatures: Mapping[str, Signature], name: str, method: str) -> Signature:
    """The signature for classify or regress. Raises `ServingError` in TensorFlow Serving's words."""
    if name not in signatures:
        raise ServingError(Code.INVALID_ARGUMENT, f"No signature was found with the name: {name}")
    signature = signatures[name]
    noun = {"classify": "classification", "regress": "regression"}[method]
    if signature.method != method:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"Expected {noun} signature method_name to be {_METHOD}{method}. Was: {_METHOD}{signature.method}",
        )
    if len(signature.inputs) != 1:
        raise ServingError(Code.INVALID_ARGUMENT, "Expected one input Tensor.")
    if "inputs" not in signature.inputs:
        raise ServingError(Code.INVALID_ARGUMENT, f"No {noun} inputs found in SignatureDef")
    if signature.inputs["inputs"].datatype is not DataType.BYTES:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"signature '{name}' takes {TYPE_NAME[signature.inputs['inputs'].datatype]} tensors, "
            "not serialized examples: call it with :predict",
        )
    return signature


def format_classes(outputs: Mapping[str, Tensor], count: int) -> bytes:
    """`{"results": [[[label, score], …], …]}`. Raises `ServingError`."""
    classes, scores = outputs.get("classes"), outputs.get("scores")
    if classes is None and scores is None:
        raise _unexpected('Expected classification signature outputs to contain at least one of "classes" or "scores".')
    if classes is not None:
        _check_matrix(classes, DataType.BYTES, "classes", count)
    if scores is not None:
        _check_matrix(scores, DataType.FP32, "scores", count)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise _unexpected(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    shape = scores.shape if scores is not None else (classes.shape if classes is not None else (0, 0))
    if scores is None:
        scores = np.zeros(shape, dtype=np.float32)
    rows = []
    for row in range(shape[0]):
        pairs = []
        for column in range(shape[1]):
            label = "" if classes is None else bytes(classes[row, column]).decode(errors="replace")
            pairs.append(
                b"[" + _quoted(label) + b"," + dump_numbers(scores[row, column : column + 1].reshape(())) + b"]"
            )
        rows.append(b"[" + b",".join(pairs) + b"]")
    return b'{"results":[' + b",".join(rows) + b"]}"


def format_values(outputs: Mapping[str, Tensor], count: int) -> bytes:
    """`{"results": [value, …]}`. Raises `ServingError`."""
    tensor = outputs.get("outputs")
    if tensor is None:
        raise _unexpected("No regression outputs found in SignatureDef")
    if not (tensor.ndim == 1 or (tensor.ndim == 2 and tensor.shape[1] == 1)):
        raise _unexpected(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_debug(tensor)}"
        )
    if tensor.shape[0] != count:
        raise _unexpected(f"Input batch size did not match output batch size: {count} vs. {tensor.shape[0]}")
    if datatype_of(tensor) is not DataType.FP32:
        raise _unexpected(f"Expected output Tensor of DT_FLOAT.  Got: {_dt(tensor)}")
    return b'{"results":' + dump_numbers(tensor.reshape(-1)) + b"}"


def _check_matrix(tensor: Tensor, datatype: DataType, name: str, count: int) -> None:
    if tensor.ndim != 2:
        raise _unexpected(f"Expected Tensor shape: [batch_size num_classes] but got {_debug(tensor)}")
    if datatype_of(tensor) is not datatype:
        wanted = "DT_STRING" if datatype is DataType.BYTES else "DT_FLOAT"
        raise _unexpected(f"Expected {name} Tensor of {wanted}. Got: {_dt(tensor)}")
    if tensor.shape[0] != count:
        raise _unexpected(f"Expected {name} output batch size of {count}. Got: {tensor.shape[0]}")


def _unexpected(message: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, message)


def _debug(tensor: Tensor) -> str:
    return "[" + ",".join(map(str, tensor.shape)) + "]"


def _dt(tensor: Tensor) -> str:
    return TENSORFLOW_NAME[datatype_of(tensor)]


def _quoted(text: str) -> bytes:
    return orjson.dumps(text)
