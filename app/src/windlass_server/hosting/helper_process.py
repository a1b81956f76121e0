"""A helper: a worker without a model, with a bound on its memory, that does one thing at a time."""

from __future__ import annotations

import os
import resource
import socket
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import orjson
from PIL import Image

from windlass_contract.manifest import ImageInput, Signature, TensorSpec
from windlass_server.api.answer_texts import WRITERS
from windlass_server.api.document import Document
from windlass_server.api.images import ImageHeader, packed_image
from windlass_server.api.limits import Limits
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.frames import Buffer
from windlass_server.hosting.processes import give_memory_back, lower_priority, trim_memory
from windlass_server.hosting.worker import PREPARING_NICENESS, Worker
from windlass_server.tensors import Tensor

_Result = tuple[dict[str, Any], dict[str, Tensor]]


def run(channel: socket.socket, runtime: str, argument: dict[str, Any]) -> NoReturn:
    """Its whole life. `argument`: `kind`, `images` or `json`; `memoryBytes` that it may use besides what it has now;
    for `json` the `limits` of requests; `threads` (1), `path`, `maxRequestBytes`, `maxAnswerBytes` as a worker's."""
    channel.setblocking(True)
    give_memory_back()
    has = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for bound, value in ((resource.RLIMIT_AS, has + argument["memoryBytes"]), (resource.RLIMIT_FSIZE, 0)):
        resource.setrlimit(bound, (value, value))
    {"images": _ImageHelper, "json": _JsonHelper}[argument["kind"]](channel, runtime, argument).serve()


def prepare() -> None:
    """For the template: the images' formats are there before the first one."""
    Image.init()
    # Its own bound is another than ours, which the header was held against before the image came here.
    Image.MAX_IMAGE_PIXELS = None


class _ImageHelper(Worker):
    def __init__(self, channel: socket.socket, runtime: str, argument: dict[str, Any]) -> None:
        super().__init__(channel, runtime, argument)
        self._work = {"decode": _decode}


def _decode(head: dict[str, Any], tensors: dict[str, Tensor]) -> _Result:
    header = ImageHeader(*head["header"])
    how, spec = _wanted(head["wanted"])
    try:
        return {}, {"image": packed_image(tensors["data"].tobytes(), header, how, spec)}
    except MemoryError:
        raise ServingError(
            Code.PAYLOAD_TOO_LARGE, "decoding the image takes more memory than there is for it: send a smaller one"
        ) from None


@lru_cache(maxsize=64)
def _wanted(text: str) -> tuple[ImageInput, TensorSpec]:
    how, spec = orjson.loads(text)
    return ImageInput.parse(how, "main"), TensorSpec.parse(spec, "main")


class _JsonHelper(Worker):
    """Reads bodies and writes answers, at low priority: no other request is to feel it."""

    def __init__(self, channel: socket.socket, runtime: str, argument: dict[str, Any]) -> None:
        super().__init__(channel, runtime, argument)
        lower_priority(PREPARING_NICENESS)
        self._limits = Limits(**argument["limits"])
        self._document: Document | None = None
        self._work = {"read": self._read_body, "write": self._write_answer, "forget": self._forget}

    def _read_body(self, head: dict[str, Any], tensors: dict[str, Tensor]) -> _Result:
        """A step of reading: the first one comes with the `body`, which the last one forgets."""
        document = Document(tensors["body"].tobytes(), self._limits) if "body" in tensors else self._document
        self._document = None
        if document is None:
            raise ServingError(Code.INTERNAL, "there is no document to read")
        given = orjson.loads(tensors["arguments"].tobytes())
        try:
            result, outcome = _STEPS[head["step"]](document, given)
        except ServingError as error:
            return _refused(error)
        except MemoryError:
            raise ServingError(
                Code.PAYLOAD_TOO_LARGE, "reading the JSON takes more memory than there is for it: send binary tensors"
            ) from None
        if not head["last"]:
            self._document = document
        return {}, {"result": _as_tensor(orjson.dumps(result)), **outcome}

    def _write_answer(self, head: dict[str, Any], tensors: dict[str, Tensor]) -> _Result:
        arguments = orjson.loads(tensors.pop("arguments").tobytes())
        outputs = {name.removeprefix("tensor "): tensor for name, tensor in tensors.items()}
        try:
            return {}, {"text": _as_tensor(WRITERS[head["writer"]](outputs, **arguments))}
        except ServingError as error:
            return _refused(error)
        except MemoryError:
            raise ServingError(
                Code.INVALID_ARGUMENT, "the answer is too large for JSON: send fewer rows, or ask for binary outputs"
            ) from None

    def _forget(self, _head: dict[str, Any], _tensors: dict[str, Tensor]) -> _Result:
        self._document = None
        return {}, {}

    def _send(self, pieces: list[Buffer]) -> None:
        super()._send(pieces)
        # It is not to keep what the largest body took until the next one comes.
        pieces.clear()
        if self._document is None:
            trim_memory()


def _refused(error: ServingError) -> _Result:
    """To the letter, however long."""
    text = error.message.encode("utf-8", "surrogatepass")
    return {"refused": error.code.value}, {"message": _as_tensor(text)}


def _as_tensor(data: bytes) -> Tensor:
    return np.frombuffer(data, dtype=np.uint8)


def _inputs(document: Document, given: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    inputs = document.inputs(given["name"], Signature.parse(given["signature"], "main"))
    return {"inRows": inputs.in_rows, "flat": inputs.flat}, _named(inputs.tensors)


def _inference(document: Document, given: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    signatures = {name: Signature.parse(each, "main") for name, each in given["signatures"].items()}
    length = None if given["headerLength"] is None else given["headerLength"].encode("latin-1")
    found = document.inference(length, _Interface(given["model"], signatures))
    result = {"id": found.id, "signature": found.signature, "outputs": found.outputs, "named": found.output_names}
    return result, _named(found.inputs)


class _Interface:
    def __init__(self, model: str, signatures: dict[str, Signature]) -> None:
        self.model = model
        self.signatures = signatures


def _named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"tensor {name}": tensor for name, tensor in tensors.items()}


_STEPS = {
    "tfs_signature": lambda document, _given: (document.tfs_signature(), {}),
    "plain_signature": lambda document, _given: (document.plain_signature(), {}),
    "inputs": _inputs,
    "examples": lambda document, _given: (None, {"tensor examples": document.examples()}),
    "inference": _inference,
}
