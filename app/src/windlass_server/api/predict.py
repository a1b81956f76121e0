"""`POST /predict` and `/predict/{model}`, for people: an image, or rows of JSON, answered with classes and scores."""

from __future__ import annotations

import re
from urllib.parse import unquote

import orjson

from windlass_contract.manifest import Signature
from windlass_server.errors import Code, ServingError

from .answer_texts import for_people
from .exchange import Answer, Request, method_not_allowed
from .images import ImageDecoding, check_header, looks_like_image, read_header
from .multipart import only_file
from .serving import Call, Service, call
from .signatures import default_signature

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
            classes = current.admission.manifest.classes
            text = await self._service.json.write(for_people, outputs, classes=classes, top=top, single=True)
            return _answer(current, text)

    async def _json(self, request: Request, model: str, top: int, body: bytes) -> Answer:
        async with self._service.json.reading(body, len(body)) as reading:
            named = await reading.plain_signature()
            with call(self._service, request, "predict", model) as current:
                name, signature = _signature(current, named)
                inputs = await reading.inputs(name, signature)
                outputs = await current.infer(name, inputs.tensors)
                text = await self._service.json.write(
                    for_people, outputs, classes=current.admission.manifest.classes, top=top, single=False,
                    in_rows=inputs.in_rows, flat=inputs.flat,
                )  # fmt: skip
                return _answer(current, text)


def _signature(current: Call, name: str | None) -> tuple[str, Signature]:
    if name is None:
        return default_signature(current.admission, _SIGNATURE_HINT)
    signatures = current.admission.signatures
    if name not in signatures:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"model '{current.admission.model}' has no such signature, but {', '.join(sorted(signatures))}",
        )
    return name, signatures[name]


def _answer(current: Call, fields: bytes) -> Answer:
    head = orjson.dumps({"model": current.admission.model, "version": current.admission.version})
    return Answer(200, head[:-1] + b"," + fields + b"}", headers=current.headers)
