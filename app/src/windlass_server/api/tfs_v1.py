"""TensorFlow Serving's REST API v1: URLs, order of checks, answers and errors as there.

All of `/v1/` belongs to it: a wrong method or path is its own 400 `Malformed request`, never a 404, 405 or redirect.
`Content-Type` is ignored. Where KServe's v1 protocol gives the same URL another body, the answer holds both, unless
`strict_tfs` asks for TensorFlow Serving's alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

from windlass_contract.manifest import TensorSpec
from windlass_contract.report import VersionState
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.hosting import VersionStatus
from windlass_server.tensors import TENSORFLOW_NAME

from .answer_texts import classified, predicted, regressed
from .exchange import JSON, Answer, Request, json_answer
from .json_work import Reading
from .serving import Call, Service, call
from .tfs_examples import check_signature

PATTERN = r"/v1(/.*)?"
_FLAGS = re.IGNORECASE | re.ASCII
_ASK = re.compile(
    r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)", _FLAGS
)
_LOOK = re.compile(r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?", _FLAGS)
_PATTERNS = {"POST": _ASK, "GET": _LOOK}
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


class _Target(NamedTuple):
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
        target = _target(request.method, request.path)
        if request.method == "GET":
            return self._look(target, request)
        body = await request.body()
        async with self._service.json.reading(body, len(body)) as reading:
            del body  # as text it is of no more use once it is read
            signature_name = await reading.tfs_signature()
            if target.action == "predict":
                return await self._predict(target, request, reading, signature_name)
            return await self._examples(target, request, reading, signature_name)

    async def _predict(self, target: _Target, request: Request, reading: Reading, signature_name: str) -> Answer:
        with self._call(target, request) as current:
            signature = current.admission.signatures.get(signature_name)
            if signature is None:
                raise ServingError(
                    Code.INVALID_ARGUMENT, f'Serving signature name: "{signature_name}" not found in signature def'
                )
            inputs = await reading.inputs(signature_name, signature)
            outputs = await current.infer(signature_name, inputs.tensors)
            text = await self._service.json.write(predicted, outputs, in_rows=inputs.in_rows, flat=inputs.flat)
            return Answer(200, text, headers=current.headers)

    async def _examples(self, target: _Target, request: Request, reading: Reading, signature_name: str) -> Answer:
        examples = await reading.examples()
        with self._call(target, request) as current:
            check_signature(current.admission.signatures, signature_name, target.action)
            outputs = await current.infer(signature_name, {"inputs": examples})
            writer = classified if target.action == "classify" else regressed
            text = await self._service.json.write(writer, outputs, count=len(examples))
            return Answer(200, text, headers=current.headers)

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


@lru_cache(maxsize=256)
def _target(method: str, path: str) -> _Target:
    """Nearly all requests name what others named before. Raises `ServingError`, which isn't remembered."""
    pattern = _PATTERNS.get(method)
    match = pattern.fullmatch(path) if pattern is not None else None
    if match is None:
        raise ServingError(Code.INVALID_ARGUMENT, f"Malformed request: {method} {path}")
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
