"""The process that decodes images: a worker without a model, with a bound on its memory. One image at a time."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

from windlass_contract.manifest import ImageInput, TensorSpec
from windlass_server.api.images import ImageHeader, image_tensor
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.worker import Worker
from windlass_server.tensors import Tensor


def run(channel: socket.socket, runtime: str, argument: dict[str, Any]) -> NoReturn:
    """Its whole life. `argument`: `memoryBytes` that it may use besides what it has now; `threads` (1), `path`,
    `maxRequestBytes`, `maxAnswerBytes` as a worker's."""
    channel.setblocking(True)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for bound, value in ((resource.RLIMIT_AS, has + argument["memoryBytes"]), (resource.RLIMIT_FSIZE, 0)):
        resource.setrlimit(bound, (value, value))
    _ImageWorker(channel, runtime, argument).serve()


def import_decoder() -> None:
    """For the template: the formats' code is there before the first image."""
    Image.init()
    # Its own bound is another than ours, which the header was held against before the image came here.
    Image.MAX_IMAGE_PIXELS = None


class _ImageWorker(Worker):
    def __init__(self, channel: socket.socket, runtime: str, argument: dict[str, Any]) -> None:
        super().__init__(channel, runtime, argument)
        self._work = {"decode": _decode}


def _decode(head: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header = ImageHeader(*head["header"])
    how, spec = ImageInput.parse(head["how"], "main"), TensorSpec.parse(head["spec"], "main")
    try:
        return {}, {"image": image_tensor(tensors["data"].tobytes(), header, how, spec)}
    except MemoryError:
        raise ServingError(
            Code.PAYLOAD_TOO_LARGE, "decoding the image takes more memory than there is for it: send a smaller one"
        ) from None
