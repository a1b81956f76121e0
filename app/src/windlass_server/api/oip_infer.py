"""An inference request of the Open Inference Protocol v2, in JSON or with the binary extension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from windlass_contract.manifest import Signature
from windlass_server.errors import Code, ServingError
from windlass_server.tensors import Tensor

from .json_text import JsonSyntaxError, parse, shown
from .limits import Limits
from .oip_tensors import from_binary, from_json, from_raw_body, read_datatype, read_shape, refuse
from .signatures import Interface, default_signature, fits, shape_text

LENGTH_HEADER = b"inference-header-content-length"
_SIGNATURE_HINT = "name one in the request's parameter signature_name"


@dataclass(frozen=True)
class Inference:
    """A checked request."""

    id: str | None
    signature: str
    inputs: dict[str, Tensor]
    outputs: dict[str, bool]
    """Those to answer with, in this order, and whether as binary."""
    output_names: list[str] | None
    """What the client asked for; None: all."""


def read_inference(body: bytes, headers: Mapping[bytes, bytes], interface: Interface, limits: Limits) -> Inference:
    """Checks a request against the model's signature. Raises `ServingError`."""
    length = _header_length(headers.get(LENGTH_HEADER), len(body))
    if length == 0:
        return _raw_request(body, interface)
    try:
        document = parse(body if length is None else body[:length], limits)
    except JsonSyntaxError as error:
        raise refuse(f"failed to parse the request JSON buffer: {error}") from error
    if not isinstance(document, dict):
        raise refuse(f"a JSON object is expected, got {shown(document)}")
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise refuse(f"'id' must be a string, got {shown(request_id)}")
    parameters = _parameters(document, "the request")
    name, signature = _signature(parameters, interface)
    tail = memoryview(body)[len(body) if length is None else length :]
    inputs = _inputs(document, tail, signature, interface, limits)
    wanted, named = _outputs(document, parameters, signature, interface)
    return Inference(request_id, name, inputs, wanted, named)


def _header_length(value: bytes | None, body_length: int) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise refuse(f"Inference-Header-Content-Length must be a number, got '{value[:40].decode('latin-1')}'")
    length = int(value)
    if length > body_length:
        raise refuse(f"Inference-Header-Content-Length is {length}, but the body has {body_length} bytes")
    return length


def _raw_request(body: bytes, interface: Interface) -> Inference:
    """The whole body is the only input, one batch entry; all outputs come back as binary."""
    name, signature = default_signature(interface, _SIGNATURE_HINT)
    if len(signature.inputs) != 1:
        raise refuse(
            f"a raw request needs a model with one input; model '{interface.model}' has {len(signature.inputs)}: "
            "send the JSON header"
        )
    input_name, spec = next(iter(signature.inputs.items()))
    tensor = from_raw_body(body, spec, input_name, interface.model)
    return Inference(None, name, {input_name: tensor}, dict.fromkeys(signature.outputs, True), None)


def _parameters(value: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = value.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise refuse(f"'parameters' of {where} must be an object, got {shown(parameters)}")
    return parameters


def _signature(parameters: dict[str, Any], interface: Interface) -> tuple[str, Signature]:
    name = parameters.get("signature_name")
    if name is None:
        return default_signature(interface, _SIGNATURE_HINT)
    signature = interface.signatures.get(name) if isinstance(name, str) else None
    if signature is None:
        raise refuse(
            f"model '{interface.model}' has no signature {shown(name)}, but {', '.join(sorted(interface.signatures))}"
        )
    return str(name), signature


def _inputs(
    document: dict[str, Any], tail: memoryview, signature: Signature, interface: Interface, limits: Limits
) -> dict[str, Tensor]:
    model = interface.model
    listed = document.get("inputs")
    if not isinstance(listed, list):
        raise refuse(f"'inputs' must be a list, got {shown(listed)}" if "inputs" in document else "'inputs' is missing")
    tensors: dict[str, Tensor] = {}
    position = 0
    for entry in listed:
        name = _entry_name(entry, "input")
        if name in tensors:
            raise refuse(f"input '{name}' already exists in request")
        if name not in signature.inputs:
            raise refuse(f"unexpected inference input '{name}' for model '{model}'")
        tensors[name], used = _input(entry, name, tail[position:], signature, model, limits)
        position += used
    if position != len(tail):
        raise refuse(f"unexpected additional input data for model '{model}'")
    missing = [name for name in signature.inputs if name not in tensors]
    if missing:
        raise refuse(
            f"expected {len(signature.inputs)} inputs but got {len(tensors)} inputs for model '{model}'. "
            f"Got input(s) {sorted(tensors)}, but missing required input(s) {missing}. "
            "Please provide all required input(s)."
        )
    return tensors


def _entry_name(entry: Any, kind: str) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise refuse(f"each {kind} must be an object with a 'name', got {shown(entry)}")
    return str(entry["name"])


def _input(
    entry: dict[str, Any], name: str, tail: memoryview, signature: Signature, model: str, limits: Limits
) -> tuple[Tensor, int]:
    """One input and how many bytes of `tail` it took."""
    spec = signature.inputs[name]
    for field in ("shape", "datatype"):
        if field not in entry:
            raise refuse(f"'{field}' of input '{name}' is missing")
    datatype = read_datatype(entry["datatype"], name)
    if datatype is not spec.datatype:
        raise refuse(
            f"inference input '{name}' data-type is '{datatype}', but model '{model}' expects '{spec.datatype}'"
        )
    shape = read_shape(entry["shape"], name, limits.max_tensor_elements)
    if not fits(shape, spec):
        raise refuse(
            f"unexpected shape for input '{name}' for model '{model}'. "
            f"Expected {shape_text(spec.shape)}, got {shape_text(shape)}"
        )
    parameters = _parameters(entry, f"input '{name}'")
    _no_shared_memory(parameters, f"input '{name}'")
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in entry:
            raise refuse(f"input '{name}' has neither 'data' nor the parameter 'binary_data_size'")
        return from_json(entry["data"], datatype, shape, name), 0
    if "data" in entry:
        raise refuse(f"input '{name}' has both 'data' and the parameter 'binary_data_size'")
    if type(size) is not int or size < 0:
        raise refuse(f"'binary_data_size' of input '{name}' must be a number of bytes, got {shown(size)}")
    if size > len(tail):
        raise refuse(
            f"unexpected size for input '{name}' for model '{model}', expecting {size - len(tail)} additional bytes"
        )
    return from_binary(tail[:size], datatype, shape, name, model), size


def _no_shared_memory(parameters: dict[str, Any], where: str) -> None:
    if any(key.startswith("shared_memory") for key in parameters):
        raise ServingError(Code.UNIMPLEMENTED, f"{where}: shared memory is not supported; send the tensor in the body")


def _outputs(
    document: dict[str, Any], parameters: dict[str, Any], signature: Signature, interface: Interface
) -> tuple[dict[str, bool], list[str] | None]:
    binary_by_default = _flag(parameters, "binary_data_output", "the request") or False
    listed = document.get("outputs")
    if listed is None or listed == []:
        return dict.fromkeys(signature.outputs, binary_by_default), None
    if not isinstance(listed, list):
        raise refuse(f"'outputs' must be a list, got {shown(listed)}")
    wanted: dict[str, bool] = {}
    for entry in listed:
        name = _entry_name(entry, "output")
        if name not in signature.outputs:
            raise refuse(f"unexpected inference output '{name}' for model '{interface.model}'")
        if name in wanted:
            raise refuse(f"output '{name}' already requested")
        own = _parameters(entry, f"output '{name}'")
        _no_shared_memory(own, f"output '{name}'")
        if own.get("classification"):
            raise ServingError(
                Code.UNIMPLEMENTED, f"output '{name}': the classification extension is not supported; use POST /predict"
            )
        binary = _flag(own, "binary_data", f"output '{name}'")
        wanted[name] = binary_by_default if binary is None else binary
    return wanted, list(wanted)


def _flag(parameters: dict[str, Any], name: str, where: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise refuse(f"parameter '{name}' of {where} must be true or false, got {shown(value)}")
    return value
