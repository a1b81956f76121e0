"""TensorFlow Serving's REST API v1: URLs, order of checks, answers and errors as there.

All of `/v1/` belongs to it: a wrong method or path is its own 400 `Malformed request`, never a 404, 405 or redirect.
`Content-Type` is ignored. Where KServe's v1 protocol gives the same URL another body, the answer holds both, unless
`strict_tfs` asks for TensorFlow Serving's alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from windlass_contract.manifest import Signature, TensorSpec
from windlass_contract.report import VersionState
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.hosting import VersionStatus
from windlass_server.tensors import TENSORFLOW_NAME, Tensor

from .exchange import JSON, Answer, Request, json_answer
from .json_text import JsonSyntaxError, parse
from .serving import DEFAULT_SIGNATURE, Call, Service, bytes_of, call, convert, fits, shape_text
from .tfs_examples import check_signature, format_classes, format_values, parse_examples
from .tfs_json import InvalidValueError, format_columns, format_error, format_rows, parse_predict

PATTERN = r"/v1(/.*)?"
_FLAGS = re.IGNORECASE | re.ASCII
_ASK = re.compile(
    r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)", _FLAGS
)
_LOOK = re.compile(r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?", _FLAGS)
_MAX_INT64 = 2**63 - 1
_STATE = {
    VersionState.WAITING: "START",
    VersionState.FETCHING: "LOADING",
    VersionState.VERIFYING: "LOADING",
    VersionState.LOADING: "LOADING",
    VersionState.WARMING_UP: "LOADING",
    VersionState.TESTING: "LOADING",
    VersionState.PREPARED: "AVAILABLE",
    VersionState.UNLOADING: "UNLOADING",
    VersionState.FAILED: "END",
}


@dataclass(frozen=True)
class _Target:
    """What a URL names."""

    model: str
    version: int | None
    label: str | None
    action: str


class TfsV1:
    """The handler of `/v1/`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: Request) -> Answer:
        """Answers one request. Raises `ServingError` and `ModelError`."""
        if request.method == "OPTIONS":
            return _preflight(request)
        match = (
            {"POST": _ASK, "GET": _LOOK}[request.method].fullmatch(request.path)
            if request.method in {"POST", "GET"}
            else None
        )
        if match is None:
            raise ServingError(Code.INVALID_ARGUMENT, f"Malformed request: {request.method} {request.path}")
        target = _target(match)
        if request.method == "GET":
            return self._look(target, request)
        body = await request.body()
        document = await convert(len(body), _document, body, self._service)
        # In the order of TensorFlow Serving, which decides the error that wins.
        signature_name = document.get("signature_name", "")
        if not isinstance(signature_name, str):
            raise _invalid(
                format_error(document, "not formatted correctly. 'signature_name' key must be a string value.")
            )
        signature_name = signature_name or DEFAULT_SIGNATURE
        if target.action == "predict":
            return await self._predict(target, request, body, document, signature_name)
        examples = await convert(len(body), parse_examples, document)
        return await self._examples(target, request, examples, signature_name)

    async def _predict(
        self, target: _Target, request: Request, body: bytes, document: dict[str, Any], signature_name: str
    ) -> Answer:
        with self._call(target, request) as current:
            signature = current.admission.signatures.get(signature_name)
            if signature is None:
                raise ServingError(
                    Code.INVALID_ARGUMENT, f'Serving signature name: "{signature_name}" not found in signature def'
                )
            answer = await predict_json(current, signature_name, signature, document, size=len(body))
            return Answer(200, answer, headers=current.headers)

    async def _examples(self, target: _Target, request: Request, examples: Tensor, signature_name: str) -> Answer:
        with self._call(target, request) as current:
            check_signature(current.admission.signatures, signature_name, target.action)
            outputs = await current.infer(signature_name, {"inputs": examples})
            to_json = format_classes if target.action == "classify" else format_values
            return Answer(200, to_json(outputs, len(examples)), headers=current.headers)

    def _call(self, target: _Target, request: Request) -> Any:
        return call(self._service, request, "v1", target.model, version=target.version, label=target.label)

    def _look(self, target: _Target, request: Request) -> Answer:
        if not target.model:
            if self._service.strict_tfs or target.action or request.path.lower() != "/v1/models":
                raise ServingError(Code.INVALID_ARGUMENT, "Missing model name in request.")
            return json_answer({"models": self._service.hosting.models()})
        if target.action:
            with self._call(target, request) as current:
                return Answer(200, json_answer(_metadata(current)).body, JSON, current.headers)
        return self._status(target)

    def _status(self, target: _Target) -> Answer:
        """States of the versions; a label in the URL is ignored, as there."""
        versions = self._service.hosting.versions(target.model)
        if target.version is not None:
            versions = [each for each in versions if each.version == target.version]
            if not versions:
                raise ServingError(Code.NOT_FOUND, f"Could not find version {target.version} of model {target.model}")
        body: dict[str, Any] = {}
        if not self._service.strict_tfs:
            ready = any(_state(each) == "AVAILABLE" for each in versions)
            body = {"name": target.model, "ready": ready}
        body["model_version_status"] = [
            {"version": str(each.version), "state": _state(each), "status": _error_status(each)} for each in versions
        ]
        return json_answer(body)


async def predict_json(
    current: Call, signature_name: str, signature: Signature, document: dict[str, Any], *, size: int
) -> bytes:
    """Runs a request in TensorFlow Serving's JSON and gives its answer's body. `size`: bytes that it came in.
    Raises `ServingError`.
    """
    inputs, in_rows, flat = await convert(size, predict_inputs, signature_name, signature, document)
    outputs = await current.infer(signature_name, inputs)
    return await convert(bytes_of(outputs), format_outputs, outputs, in_rows=in_rows, flat=flat)


def format_outputs(outputs: dict[str, Tensor], *, in_rows: bool, flat: bool) -> bytes:
    """The answer's body, in rows or columns as the request was. Raises `ServingError`."""
    if flat:
        outputs = {name: _flattened(tensor) for name, tensor in outputs.items()}
    return format_rows(outputs) if in_rows else format_columns(outputs)


def predict_inputs(
    signature_name: str, signature: Signature, document: dict[str, Any]
) -> tuple[dict[str, Tensor], bool, bool]:
    """Checked inputs, whether they came in rows, and whether the answer is to be flattened.

    TensorFlow Serving feeds any rank; a wrong one can abort TensorFlow, so here rank and dimensions are the
    signature's. One documented use is kept: a plain list for an input of [-1,1] is taken as a column, and the answer's
    columns come back as plain lists, just as if its shape had been fed unchanged. Raises `ServingError`.
    """
    if not signature.inputs:
        name = "DEFAULT" if signature_name == DEFAULT_SIGNATURE else signature_name
        raise ServingError(Code.INVALID_ARGUMENT, f"Failed to get input map for signature: {name}")
    inputs, in_rows = parse_predict(document, signature)
    flat = False
    for name, tensor in inputs.items():
        spec = signature.inputs[name]
        if fits(tensor.shape, spec):
            continue
        if tensor.ndim == 1 and _is_column(spec):
            inputs[name] = tensor.reshape(-1, 1)
            flat = True
            continue
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"input '{name}' of signature '{signature_name}' expects shape {shape_text(spec.shape)} "
            f"but got {shape_text(tensor.shape)}",
        )
    return inputs, in_rows, flat


def _is_column(spec: TensorSpec) -> bool:
    return spec.shape == [-1, 1]


def _flattened(tensor: Tensor) -> Tensor:
    """[n,1] as [n]; others as they are."""
    return tensor.reshape(-1) if tensor.ndim == 2 and tensor.shape[1] == 1 else tensor


def _target(match: re.Match[str]) -> _Target:
    model, version_text, label, action = match.groups()
    version = None
    if version_text is not None:
        version = int(version_text[:20])
        if len(version_text.lstrip("0")) > 19 or version > _MAX_INT64:
            raise ServingError(Code.INVALID_ARGUMENT, f"Failed to convert version: {version_text[:100]} to numeric.")
    return _Target(
        unquote(model or "", errors="replace"),
        version,
        None if label is None else unquote(label, errors="replace"),
        (action or "").lower(),
    )


def _document(body: bytes, service: Service) -> dict[str, Any]:
    if not body:
        raise ServingError(Code.INVALID_ARGUMENT, "JSON Parse error: The document is empty")
    try:
        document = parse(body, service.limits, trailing=True)
    except JsonSyntaxError as error:
        raise ServingError(Code.INVALID_ARGUMENT, f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise _invalid(format_error(document, "Is not object"))
    return document


def _invalid(error: InvalidValueError) -> ServingError:
    return ServingError(error.code, error.message)


def _preflight(request: Request) -> Answer:
    if re.search(rb"https?://", request.headers.get(b"origin", b"")):
        return Answer(200)
    raise ServingError(Code.INVALID_ARGUMENT, "Origin header is missing in CORS preflight")


def _state(status: VersionStatus) -> str:
    """A version that can't be asked for yet is still loading, to clients."""
    if status.state is VersionState.PREPARED and not status.addressable:
        return "LOADING"
    return _STATE[status.state]


def _error_status(status: VersionStatus) -> dict[str, str]:
    if status.state is VersionState.FAILED:
        return {"error_code": "INTERNAL", "error_message": status.message}
    if status.message and status.state is not VersionState.PREPARED:
        return {"error_code": "UNAVAILABLE", "error_message": status.message}
    return {"error_code": "OK", "error_message": ""}


def _metadata(current: Call) -> dict[str, Any]:
    admission = current.admission
    signatures = {
        name: {
            "inputs": _tensor_infos(signature.inputs),
            "outputs": _tensor_infos(signature.outputs),
            "method_name": f"tensorflow/serving/{signature.method}",
            "defaults": {},
        }
        for name, signature in admission.signatures.items()
    }
    return {
        "model_spec": {"name": admission.model, "signature_name": "", "version": str(admission.version)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _tensor_infos(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    return {
        name: {
            "dtype": TENSORFLOW_NAME[spec.datatype],
            "tensor_shape": {
                "dim": [{"size": str(size), "name": ""} for size in spec.shape or []],
                "unknown_rank": spec.shape is None,
            },
            "name": name,
        }
        for name, spec in specs.items()
    }
