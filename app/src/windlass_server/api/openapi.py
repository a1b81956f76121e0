"""The description of the API, with examples that work on this very replica: they are made from what it serves."""

from __future__ import annotations

from importlib.metadata import version as package_version
from typing import Any

from windlass_contract.manifest import DataType, Signature, TensorSpec
from windlass_server.errors import ServingError
from windlass_server.hosting.hosting import Admission

from .serving import Service
from .signatures import DEFAULT_SIGNATURE

_ERROR = {"$ref": "#/components/schemas/Error"}
_TAGS = [
    {"name": "Predict", "description": "For people: an image or JSON in, classes and scores out."},
    {"name": "TensorFlow Serving", "description": "REST API v1, as TensorFlow Serving's clients speak it."},
    {"name": "Open Inference Protocol", "description": "v2, as KServe's and Triton's clients speak it."},
    {"name": "Health", "description": "For orchestrators and people."},
]
_LARGEST_EXAMPLE = 4096
"""Elements; a larger input is shown by a shortened example."""


def describe(service: Service) -> dict[str, Any]:
    """OpenAPI 3.1 as a JSON value."""
    models = service.hosting.models()
    model = models[0] if models else "my-model"
    admission = _peek(service, model)
    signature = _signature(admission)
    version = str(admission.version) if admission is not None else "1"
    label = next(iter(service.hosting.labels(model)), "stable") if models else "stable"
    methods = _methods(admission)
    parameters = {
        "model": _parameter("model", model, "Its name."),
        "version": _parameter("version", version, "Its number."),
        "label": _parameter("label", label, "A label of a version."),
        "top": {
            "name": "top", "in": "query", "description": "How many classes are named.",
            "schema": {"type": "integer", "minimum": 1, "maximum": service.limits.max_top, "default": 5},
        },
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Windlass",
            "version": package_version("windlass-server"),
            "description": "TensorFlow models, rolled in without rebuilding the image or losing a request.",
        },
        "tags": _TAGS,
        "paths": _predict_paths(signature) | _v1_paths(signature, methods) | _v2_paths(signature) | _health_paths(),
        "components": {
            "parameters": parameters,
            "schemas": {
                "Error": {
                    "type": "object", "required": ["error"],
                    "properties": {"error": {"type": "string", "description": "What is wrong, and what to do."}},
                },
            },
        },
    }  # fmt: skip


def _peek(service: Service, model: str) -> Admission | None:
    try:
        admission = service.hosting.admit(model)
    except ServingError:
        return None
    service.hosting.release(admission)
    return admission


def _signature(admission: Admission | None) -> Signature:
    if admission is not None and admission.signatures:
        return admission.signatures.get(DEFAULT_SIGNATURE) or next(iter(admission.signatures.values()))
    column = TensorSpec(datatype=DataType.FP32, shape=[-1, 1])
    return Signature(inputs={"x": column}, outputs={"y": column})


def _methods(admission: Admission | None) -> dict[str, str]:
    """A signature for classify and one for regress: the model's, where it has them."""
    signatures = admission.signatures if admission is not None else {}
    return {
        method: next((name for name, signature in signatures.items() if signature.method == method), method)
        for method in ("classify", "regress")
    }


def _parameter(name: str, example: str, description: str) -> dict[str, Any]:
    return {
        "name": name, "in": "path", "required": True, "description": description,
        "schema": {"type": "string"}, "example": example,
    }  # fmt: skip


def _operation(
    tag: str,
    operation: str,
    summary: str,
    *,
    path: str,
    body: dict[str, Any] | None = None,
    errors: str = "400 404 503",
) -> dict[str, Any]:
    """One operation; its path parameters are read off the path."""
    described: dict[str, Any] = {
        "tags": [tag],
        "operationId": operation,
        "summary": summary,
        "responses": {"200": {"description": "As asked.", "content": {"application/json": {"schema": {}}}}}
        | {
            code: {
                "description": "Not answered; the body says why.",
                "content": {"application/json": {"schema": _ERROR}},
            }
            for code in errors.split()
        },
    }
    named = [f"#/components/parameters/{name}" for name in ("model", "version", "label") if f"{{{name}}}" in path]
    if operation.startswith("predict"):
        named.append("#/components/parameters/top")
    if named:
        described["parameters"] = [{"$ref": reference} for reference in named]
    if body is not None:
        described["requestBody"] = {"required": True, "content": body}
    return described


def _json_body(examples: dict[str, Any]) -> dict[str, Any]:
    return {
        "application/json": {
            "schema": {"type": "object"},
            "examples": {name: {"value": value} for name, value in examples.items()},
        }
    }


_ASKED = "400 404 413 429 500 503 504"


def _predict_paths(signature: Signature) -> dict[str, Any]:
    image = {"type": "string", "contentMediaType": "application/octet-stream"}
    body = {
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}
        },
        "image/jpeg": {"schema": image},
        "image/png": {"schema": image},
        "image/webp": {"schema": image},
        **_json_body({"rows": {"instances": _rows(signature)}}),
    }
    return {
        path: {"post": _operation("Predict", operation, summary, path=path, body=body, errors=_ASKED)}
        for path, operation, summary in (
            ("/predict", "predict", "Asks the only model"),
            ("/predict/{model}", "predict_model", "Asks a model"),
        )
    }


def _v1_paths(signature: Signature, methods: dict[str, str]) -> dict[str, Any]:
    tag = "TensorFlow Serving"
    body = _json_body({"rows": {"instances": _rows(signature)}, "columns": {"inputs": _columns(signature)}})
    paths: dict[str, Any] = {
        "/v1/models": {"get": _operation(tag, "v1_models", "Names of the models", path="", errors="400")}
    }
    for suffix, which in (("", ""), ("/versions/{version}", "_version"), ("/labels/{label}", "_label")):
        base = f"/v1/models/{{model}}{suffix}"
        paths[f"{base}:predict"] = {
            "post": _operation(tag, f"v1_predict{which}", "Runs a model", path=base, body=body, errors=_ASKED)
        }
        for method in ("classify", "regress"):
            examples = _json_body({"examples": {"signature_name": methods[method], "examples": [{"x": 1.0}]}})
            paths[f"{base}:{method}"] = {
                "post": _operation(
                    tag,
                    f"v1_{method}{which}",
                    f"Runs a signature for {method}",
                    path=base,
                    body=examples,
                    errors=_ASKED,
                )
            }
        paths[base] = {"get": _operation(tag, f"v1_status{which}", "States of the versions", path=base)}
        paths[f"{base}/metadata"] = {"get": _operation(tag, f"v1_metadata{which}", "Signatures", path=base)}
    return paths


def _v2_paths(signature: Signature) -> dict[str, Any]:
    tag = "Open Inference Protocol"
    body = _json_body(
        {"json": {"id": "1", "inputs": [_v2_input(name, spec) for name, spec in signature.inputs.items()]}}
    )
    paths: dict[str, Any] = {
        "/v2": {"get": _operation(tag, "v2_server", "Name, version, extensions", path="", errors="")},
        "/v2/health/live": {"get": _operation(tag, "v2_live", "Whether the process stands", path="", errors="503")},
        "/v2/health/ready": {"get": _operation(tag, "v2_ready", "Whether it may get traffic", path="", errors="503")},
        "/v2/repository/index": {
            "post": _operation(
                tag, "v2_index", "All versions and their states", path="", body=_json_body({"all": {}}), errors="400"
            )
        },
    }
    paths["/v2/repository/index"]["post"]["requestBody"]["required"] = False
    for suffix, which in (("", ""), ("/versions/{version}", "_version")):
        base = f"/v2/models/{{model}}{suffix}"
        paths[base] = {"get": _operation(tag, f"v2_metadata{which}", "Inputs and outputs", path=base)}
        paths[f"{base}/ready"] = {"get": _operation(tag, f"v2_model_ready{which}", "Whether it answers", path=base)}
        paths[f"{base}/infer"] = {
            "post": _operation(tag, f"v2_infer{which}", "Runs a model", path=base, body=body, errors=_ASKED)
        }
    return paths


def _health_paths() -> dict[str, Any]:
    return {
        path: {
            method: _operation("Health", f"{method}_{name}", summary, path="", errors="503")
            for method in ("get", "head")
        }
        for path, name, summary in (
            ("/livez", "livez", "Does the process turn?"),
            ("/readyz", "readyz", "May it get traffic?"),
            ("/health", "health", "Is it healthy?"),
        )
    }


def _zeros(spec: TensorSpec, shape: list[int]) -> Any:
    if not shape:
        match spec.datatype:
            case DataType.BOOL:
                return False
            case DataType.BYTES:
                return "text"
            case DataType.FP32 | DataType.FP64 | DataType.FP16 | DataType.BF16:
                return 1.0
        return 1
    return [_zeros(spec, shape[1:]) for _ in range(shape[0])]


def _example_shape(spec: TensorSpec) -> list[int]:
    shape = [1 if size == -1 else size for size in (spec.shape if spec.shape is not None else [1])]
    count = 1
    for size in shape:
        count *= size
    return shape if count <= _LARGEST_EXAMPLE else [1 for _ in shape]


def _columns(signature: Signature) -> Any:
    values = {name: _zeros(spec, _example_shape(spec)) for name, spec in signature.inputs.items()}
    return next(iter(values.values())) if len(values) == 1 else values


def _rows(signature: Signature) -> list[Any]:
    values = {name: _zeros(spec, _example_shape(spec)[1:]) for name, spec in signature.inputs.items()}
    return [next(iter(values.values())) if len(values) == 1 else values]


def _v2_input(name: str, spec: TensorSpec) -> dict[str, Any]:
    shape = _example_shape(spec)
    return {"name": name, "shape": shape, "datatype": str(spec.datatype), "data": _zeros(spec, shape)}
