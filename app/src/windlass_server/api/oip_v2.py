"""Open Inference Protocol v2 over REST, with the binary tensor extension, as Triton's and KServe's clients speak it.

The protocol has no signatures: a request goes to `serving_default` (or the only one) unless its parameter
`signature_name` names another.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version as package_version
from typing import Any

from windlass_contract.manifest import DataType, ModelFormat, Signature
from windlass_contract.report import VersionState
from windlass_server.errors import Code, ServingError
from windlass_server.health import HealthSource
from windlass_server.hosting.hosting import VersionStatus

from .answer_texts import flat_data
from .exchange import Answer, Request, json_answer, method_not_allowed
from .json_text import JsonSyntaxError, parse
from .oip_answer import answer_inference
from .oip_infer import LENGTH_HEADER
from .serving import Service, call
from .signatures import default_signature

PATTERN = r"/v2(/.*)?"
_MODEL = re.compile(
    r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(infer|ready|config|stats|generate|generate_stream))?"
)
_LOAD = re.compile(r"/v2/repository/models/([^/]+)/(load|unload)")
_EXTENSIONS = ["binary_tensor_data", "model_repository", "parameters"]
_PLATFORM = {ModelFormat.SAVED_MODEL: "tensorflow_savedmodel", ModelFormat.TFLITE: "tensorflow_lite"}
_SIGNATURE_HINT = "name one in the request's parameter signature_name"
_STATE = {
    VersionState.PREPARED: "READY",
    VersionState.UNLOADING: "UNLOADING",
    VersionState.FAILED: "UNAVAILABLE",
    VersionState.WAITING: "UNAVAILABLE",
}
_MAX_VERSION_DIGITS = 19


class OipV2:
    """The handler of `/v2`."""

    def __init__(self, service: Service, health: HealthSource) -> None:
        self._service = service
        self._health = health
        self._version = package_version("windlass-server")
        self._fixed: dict[str, tuple[str, Callable[[Request], Awaitable[Answer]]]] = {
            "/v2": ("GET", self._server),
            "/v2/": ("GET", self._server),
            "/v2/health/live": ("GET", self._live),
            "/v2/health/ready": ("GET", self._ready),
            "/v2/repository/index": ("POST", self._index),
        }

    async def __call__(self, request: Request) -> Answer:
        """Answers one request. Raises `ServingError` and `ModelError`."""
        path = str(request.scope["path"])
        match = _MODEL.fullmatch(path)
        if match is not None:
            return await self._model(request, match)
        if path in self._fixed:
            method, handler = self._fixed[path]
            return await handler(request) if request.method == method else method_not_allowed(method)
        if (loading := _LOAD.fullmatch(path)) is not None:
            if request.method != "POST":
                return method_not_allowed("POST")
            raise ServingError(
                Code.UNIMPLEMENTED,
                f"models are not {loading.group(2)}ed by request: the rollout of model '{loading.group(1)}' "
                "decides what is resident; apply or retire a ModelVersion",
            )
        return json_answer({"error": "Not Found"}, 404)

    async def _model(self, request: Request, match: re.Match[str]) -> Answer:
        model, version_text, action = match.groups()
        wanted = "POST" if action in {"infer", "generate", "generate_stream"} else "GET"
        if request.method != wanted:
            return method_not_allowed(wanted)
        version = _version(model, version_text)
        if action == "infer":
            return await self._infer(request, model, version)
        if action == "ready":
            return self._model_ready(model, version)
        if action is None:
            return self._metadata(request, model, version)
        raise ServingError(Code.UNIMPLEMENTED, f"'{action}' is not supported; GET /v2 lists the extensions that are")

    async def _server(self, _request: Request) -> Answer:
        return json_answer({"name": "windlass", "version": self._version, "extensions": _EXTENSIONS})

    async def _live(self, _request: Request) -> Answer:
        return _health("live", *self._health.live())

    async def _ready(self, _request: Request) -> Answer:
        return _health("ready", *self._health.ready())

    async def _infer(self, request: Request, model: str, version: int | None) -> Answer:
        body = await request.body()
        with call(self._service, request, "v2", model, version=version) as current:
            admission, length = current.admission, request.headers.get(LENGTH_HEADER)
            async with self._service.json.reading(body, _work(body, length, admission.signatures)) as reading:
                del body  # as text it is of no more use once it is read
                inference = await reading.inference(length, admission)
            outputs = await current.infer(inference.signature, inference.inputs, inference.output_names)
            texts = {
                name: await self._service.json.write(flat_data, {name: outputs[name]})
                for name, binary in inference.outputs.items()
                if not binary
            }
            return answer_inference(inference, outputs, texts, current.admission, current.headers)

    def _model_ready(self, model: str, version: int | None) -> Answer:
        versions = self._service.hosting.versions(model)
        if version is None:
            try:
                self._service.hosting.release(self._service.hosting.admit(model))
            except ServingError as error:
                if error.code is not Code.RESOURCE_EXHAUSTED:  # busy is ready
                    raise ServingError(Code.UNAVAILABLE, error.message) from error
            return json_answer({"name": model, "ready": True})
        found = [each for each in versions if each.version == version]
        if not found:
            raise ServingError(Code.NOT_FOUND, f"Could not find version {version} of model {model}")
        if not _is_ready(found[0]):
            why = found[0].message or f"it is {found[0].state}"
            raise ServingError(Code.UNAVAILABLE, f"version {version} of model {model} is not ready: {why}")
        return json_answer({"name": model, "ready": True})

    def _metadata(self, request: Request, model: str, version: int | None) -> Answer:
        with call(self._service, request, "v2", model, version=version) as current:
            admission = current.admission
            _, signature = default_signature(admission, _SIGNATURE_HINT)
            ready = sorted(each.version for each in self._service.hosting.versions(model) if _is_ready(each))
            body = {
                "name": model,
                "versions": [str(each) for each in ready],
                "platform": _PLATFORM[admission.manifest.format],
                **_tensors(signature),
            }
            return json_answer(body, headers=current.headers)

    async def _index(self, request: Request) -> Answer:
        """All versions that the plan names. An empty body is allowed; `{"ready": true}` leaves out the others."""
        body = await request.body()
        only_ready = False
        if body.strip():
            try:
                asked = parse(body, self._service.limits)
            except JsonSyntaxError as error:
                raise ServingError(
                    Code.INVALID_ARGUMENT, f"failed to parse the request JSON buffer: {error}"
                ) from error
            only_ready = isinstance(asked, dict) and asked.get("ready") is True
        hosting = self._service.hosting
        entries = [
            {
                "name": model,
                "version": str(each.version),
                "state": "READY" if _is_ready(each) else _index_state(each),
                "reason": each.message,
            }
            for model in hosting.models()
            for each in reversed(hosting.versions(model))
            if _is_ready(each) or not only_ready
        ]
        return json_answer(entries)


def _version(model: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_VERSION_DIGITS):
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"failed to get model version from specified version string '{text[:40]}' for '{model}'",
        )
    return int(text)


def _work(body: bytes, header_length: bytes | None, signatures: Mapping[str, Signature]) -> int:
    """Bytes of a request that take work: JSON does, binary numbers don't, but strings have to be counted."""
    strings = any(
        spec.datatype is DataType.BYTES for signature in signatures.values() for spec in signature.inputs.values()
    )
    if strings or header_length is None or not header_length.isdigit():
        return len(body)
    return min(int(header_length[:18]), len(body))


def _health(question: str, good: bool, reasons: list[str]) -> Answer:
    if good:
        return json_answer({question: True})
    return json_answer({"error": f"not {question}: {'; '.join(reasons)}", question: False}, 503)


def _is_ready(status: VersionStatus) -> bool:
    return status.state is VersionState.PREPARED and status.addressable


def _index_state(status: VersionStatus) -> str:
    return "LOADING" if status.state is VersionState.PREPARED else _STATE.get(status.state, "LOADING")


def _tensors(signature: Signature) -> dict[str, Any]:
    """Inputs and outputs; -1 is any size, and any rank is shown as [-1], since the protocol has no word for it."""
    return {
        side: [
            {"name": name, "datatype": str(spec.datatype), "shape": [-1] if spec.shape is None else spec.shape}
            for name, spec in specs.items()
        ]
        for side, specs in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }
