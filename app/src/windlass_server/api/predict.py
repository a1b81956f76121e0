"""`POST /predict` and `/predict/{model}`, for people: an image, or rows of JSON, answered with classes and scores."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import orjson

from windlass_contract.manifest import Signature
from windlass_server.errors import Code, ServingError

from .class_scores import find_scores, top_classes
from .exchange import Answer, Request, method_not_allowed
from .images import ImageDecoding, check_header, looks_like_image, read_header
from .json_text import JsonSyntaxError, parse
from .multipart import only_file
from .serving import Call, Service, bytes_of, call, convert, default_signature
from .tfs_json import format_columns
from .tfs_v1 import format_outputs, predict_inputs

PATTERN = r"/predict(/[^/]+)?"
_DEFAULT_TOP = 5
_SIGNATURE_HINT = 'name one: {"signature_name": "…", "instances": …}'


class Predict:
    """The handler of `/predict`."""

    def __init__(self, service: Service, images: ImageDecoding) -> None:
        self._service = service
        self._images = images

    async def __call__(self, request: Request) -> Answer:
        """Answers one request. Raises `ServingError` and `ModelError`."""
        if request.method != "POST":
            return method_not_allowed("POST")
        model = self._model(request)
        top = self._top(request)
        body = await request.body()
        content_type = request.headers.get(b"content-type", b"")
        if re.match(rb"\s*multipart/form-data", content_type, re.IGNORECASE):
            body = only_file(body, content_type)
        elif not looks_like_image(body) and not content_type.lower().startswith(b"image/"):
            return await self._json(request, model, top, body)
        return await self._image(request, model, top, body)

    def _model(self, request: Request) -> str:
        named = request.path.rstrip("/").split("/")[2:]
        if named:
            return unquote(named[0], errors="replace")
        models = self._service.hosting.models()
        if len(models) == 1:
            return models[0]
        if not models:
            raise ServingError(Code.UNAVAILABLE, "there is no model yet; /health says why")
        raise ServingError(
            Code.INVALID_ARGUMENT, f"there are several models: ask /predict/<model> with one of {', '.join(models)}"
        )

    def _top(self, request: Request) -> int:
        given = request.query.get("top", [str(_DEFAULT_TOP)])[-1]
        most = self._service.limits.max_top
        if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= most):
            raise ServingError(Code.INVALID_ARGUMENT, f"'top' must be a number from 1 to {most}, got '{given[:40]}'")
        return int(given)

    async def _image(self, request: Request, model: str, top: int, data: bytes) -> Answer:
        header = read_header(data)
        check_header(header, self._service.limits)
        with call(self._service, request, "predict", model) as current:
            how = current.admission.manifest.image
            if how is None:
                raise ServingError(
                    Code.INVALID_ARGUMENT,
                    f"model '{model}' takes no images: its manifest has no image input (windlass pack writes one); "
                    'send {"instances": …}',
                )
            spec = current.admission.signatures[how.signature].inputs[how.input]
            tensor = await self._images.decode(data, header, how, spec)
            outputs = await current.infer(how.signature, {how.input: tensor})
            scores = find_scores(current.admission.manifest, outputs)
            if scores is None:
                return _answer(current, format_columns(outputs)[1:-1])
            best = top_classes(current.admission.manifest, scores[0], top)
            return _answer(current, b'"predictions":' + orjson.dumps(best))

    async def _json(self, request: Request, model: str, top: int, body: bytes) -> Answer:
        try:
            document = await convert(len(body), parse, body, self._service.limits)
        except JsonSyntaxError as error:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"the body is neither an image (JPEG, PNG, WebP) nor JSON: {error}",
            ) from error
        if not isinstance(document, dict):
            raise ServingError(Code.INVALID_ARGUMENT, 'an object is expected: {"instances": […]} or {"inputs": …}')
        with call(self._service, request, "predict", model) as current:
            name, signature = _signature(current, document.get("signature_name"))
            inputs, in_rows, flat = await convert(len(body), predict_inputs, name, signature, document)
            outputs = await current.infer(name, inputs)
            scores = find_scores(current.admission.manifest, outputs)
            if scores is not None:
                best = [top_classes(current.admission.manifest, row, top) for row in scores]
                return _answer(current, b'"predictions":' + orjson.dumps(best))
            plain = await convert(bytes_of(outputs), format_outputs, outputs, in_rows=in_rows, flat=flat)
            return _answer(current, plain[1:-1])


def _signature(current: Call, name: Any) -> tuple[str, Signature]:
    if name is None or name == "":
        return default_signature(current.admission, _SIGNATURE_HINT)
    signatures = current.admission.signatures
    if not isinstance(name, str) or name not in signatures:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"model '{current.admission.model}' has no such signature, but {', '.join(sorted(signatures))}",
        )
    return name, signatures[name]


def _answer(current: Call, fields: bytes) -> Answer:
    head = orjson.dumps({"model": current.admission.model, "version": current.admission.version})
    return Answer(200, head[:-1] + b"," + fields + b"}", headers=current.headers)
