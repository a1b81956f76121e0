"""A body of JSON, read step by step as the protocols read it. Pure, and slow for a large one: each step holds Python's
lock. So where it runs is decided elsewhere (`json_work`): on the spot, or in another process.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from windlass_contract.manifest import Signature
from windlass_server.errors import Code, ServingError
from windlass_server.tensors import Tensor

from .json_text import JsonSyntaxError, parse, shown
from .limits import Limits
from .oip_infer import LENGTH_HEADER, Inference, read_inference
from .plain_rows import read_plain_rows, tensor_of_plain_rows
from .signatures import DEFAULT_SIGNATURE, Interface
from .tfs_examples import parse_examples
from .tfs_json import format_error
from .tfs_predict import predict_inputs


class Inputs(NamedTuple):
    """Of a request in TensorFlow Serving's JSON."""

    tensors: dict[str, Tensor]
    in_rows: bool
    """As `instances`; so the answer comes in rows, too."""
    flat: bool
    """A plain list for a column: so the answer's columns are plain lists, too."""


class Document:
    """One body. `tfs_signature` or `plain_signature` parses it, the others say what it means for a model. Each raises
    `ServingError`."""

    def __init__(self, body: bytes, limits: Limits) -> None:
        self._body = body
        self._limits = limits
        self._value: dict[str, Any] = {}
        self._plain: list[Any] | None = None
        """Rows, when there is nothing else in the body."""

    def tfs_signature(self) -> str:
        """The signature that it names or means, in TensorFlow Serving's order of checks, which decides the error that
        wins."""
        self._plain = read_plain_rows(self._body, self._limits)
        if self._plain is not None:
            self._value = {"instances": self._plain}
            return DEFAULT_SIGNATURE
        if not self._body:
            raise ServingError(Code.INVALID_ARGUMENT, "JSON Parse error: The document is empty")
        try:
            value = parse(self._body, self._limits, trailing=True)
        except JsonSyntaxError as error:
            raise ServingError(Code.INVALID_ARGUMENT, f"JSON Parse error: {error}") from error
        if not isinstance(value, dict):
            raise ServingError(Code.INVALID_ARGUMENT, format_error(value, "Is not object").message)
        name = value.get("signature_name", "")
        if not isinstance(name, str):
            wrong = format_error(value, "not formatted correctly. 'signature_name' key must be a string value.")
            raise ServingError(Code.INVALID_ARGUMENT, wrong.message)
        self._value = value
        return name or DEFAULT_SIGNATURE

    def plain_signature(self) -> str | None:
        """The signature that a request of `POST /predict` names; None: none."""
        try:
            value = parse(self._body, self._limits)
        except JsonSyntaxError as error:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"the body is neither an image (JPEG, PNG, WebP) nor JSON: {error}"
            ) from error
        if not isinstance(value, dict):
            raise ServingError(Code.INVALID_ARGUMENT, 'an object is expected: {"instances": […]} or {"inputs": …}')
        name = value.get("signature_name")
        self._value = value
        if name is None or isinstance(name, str):
            return name or None
        return f"no string but {shown(name)}"  # no model has that

    def inputs(self, signature_name: str, signature: Signature) -> Inputs:
        """The tensors of a parsed request."""
        if self._plain is not None:
            tensors = tensor_of_plain_rows(self._plain, signature)
            if tensors is not None:
                return Inputs(tensors, in_rows=True, flat=False)
        return Inputs(*predict_inputs(signature_name, signature, self._value))

    def examples(self) -> Tensor:
        """The serialised examples of a parsed request for classify or regress."""
        return parse_examples(self._value)

    def inference(self, header_length: bytes | None, interface: Interface) -> Inference:
        """A request of the Open Inference Protocol. `header_length`: the header that says where binary data begins."""
        headers = {} if header_length is None else {LENGTH_HEADER: header_length}
        return read_inference(self._body, headers, interface, self._limits)
