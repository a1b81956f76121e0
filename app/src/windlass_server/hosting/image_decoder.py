"""Images are decoded in processes that may die: started by the launcher at the first image, so without anything that
is secret, and replaced when one crashed, was too slow or took too much memory.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import numpy as np

from windlass_contract.manifest import DataType, ImageInput, TensorSpec
from windlass_server.api.images import ImageHeader, encoded_tensor
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.channel import ChannelClosedError, RequestTooLargeError, WorkerChannel
from windlass_server.hosting.cpus import available_cpus
from windlass_server.hosting.launcher import Launcher, LauncherError, WorkerProcess
from windlass_server.tensors import Tensor

_log = logging.getLogger(__name__)

_BYTES_PER_PIXEL = 16
"""Of the largest image: decoded, converted and resized, with a copy between each."""
_BYTES_BESIDES = 256 * 1024 * 1024
_MAX_ANSWER_BYTES = 1024 * 1024 * 1024
_EXIT_SECONDS = 10


@dataclass(frozen=True)
class DecoderSettings:
    """Sizes in bytes, times in seconds."""

    max_pixels: int = 50_000_000
    max_image_bytes: int = 64 * 1024 * 1024
    deadline: float = 10.0
    """For one image."""
    processes: int = field(default_factory=available_cpus)
    start_deadline: float = 60.0

    @property
    def memory_bytes(self) -> int:
        """That a decoder may use besides what it has at its start."""
        return _BYTES_BESIDES + _BYTES_PER_PIXEL * self.max_pixels


class _Decoder:
    """One process and its channel."""

    def __init__(self, process: WorkerProcess, settings: DecoderSettings) -> None:
        self.process = process
        self.channel = WorkerChannel(
            process.socket,
            max_request_bytes=settings.max_image_bytes + 1024 * 1024,
            max_answer_bytes=_MAX_ANSWER_BYTES,
            on_close=lambda _reason: None,
        )

    def kill(self) -> None:
        """Ends it at once."""
        self.channel.close()
        self.process.kill()


class ImageDecoder:
    """The pool. Belongs to the event loop; `close` ends its processes."""

    def __init__(self, launcher: Launcher, settings: DecoderSettings | None = None) -> None:
        self._launcher = launcher
        self._settings = settings or DecoderSettings()
        self._turns = asyncio.Semaphore(self._settings.processes)
        self._idle: list[_Decoder] = []
        self.started = 0
        """Processes so far."""

    async def decode(self, data: bytes, header: ImageHeader, how: ImageInput, spec: TensorSpec) -> Tensor:
        """A batch of one image, as `image_tensor` gives it. Raises `ServingError`: what that raises, INVALID_ARGUMENT
        for an image that its decoder dies of or doesn't finish, UNAVAILABLE when there is no decoder."""
        if spec.datatype is DataType.BYTES:
            return encoded_tensor(data, spec, how)  # the model decodes it, in its own process
        async with self._turns:
            decoder = await self._take()
            done = False
            try:
                tensor = await self._ask(decoder, data, header, how, spec)
                done = True
            except ServingError:
                done = not decoder.channel.closed
                raise
            finally:
                # One that is still busy, because its client left or its time was over, is of no use to the next.
                if done:
                    self._idle.append(decoder)
                else:
                    decoder.kill()
        return tensor

    async def close(self) -> None:
        """Ends all that are idle; the others end with the launcher."""
        while self._idle:
            self._idle.pop().kill()

    async def _take(self) -> _Decoder:
        while self._idle:
            decoder = self._idle.pop()
            if not decoder.channel.closed:
                return decoder
        settings = self._settings
        argument = {
            "path": "/", "threads": 1, "memoryBytes": settings.memory_bytes,
            "maxRequestBytes": settings.max_image_bytes + 1024 * 1024, "maxAnswerBytes": _MAX_ANSWER_BYTES,
        }  # fmt: skip
        try:
            process = await self._launcher.spawn(
                "images", argument, within=settings.start_deadline, context={"part": "image decoder"}
            )
        except LauncherError as error:
            raise ServingError(Code.UNAVAILABLE, f"images can't be decoded now: {error}", retry_after=1) from error
        self.started += 1
        return _Decoder(process, settings)

    async def _ask(
        self, decoder: _Decoder, data: bytes, header: ImageHeader, how: ImageInput, spec: TensorSpec
    ) -> Tensor:
        head = {
            "op": "decode", "how": how.to_dict(), "spec": spec.to_dict(),
            "header": [header.format, header.width, header.height, header.frames],
        }  # fmt: skip
        try:
            async with asyncio.timeout(self._settings.deadline):
                answer, tensors = await decoder.channel.send(head, {"data": np.frombuffer(data, dtype=np.uint8)})
        except TimeoutError:
            decoder.kill()
            raise ServingError(
                Code.INVALID_ARGUMENT, f"decoding the image takes longer than {self._settings.deadline:g} s"
            ) from None
        except RequestTooLargeError as error:
            raise ServingError(Code.PAYLOAD_TOO_LARGE, str(error)) from error
        except ChannelClosedError:
            raise await _death(decoder) from None
        if "code" in answer:
            raise ServingError(Code(answer["code"]), answer["message"])
        return tensors["image"]


async def _death(decoder: _Decoder) -> ServingError:
    decoder.kill()
    async with asyncio.timeout(_EXIT_SECONDS):
        ended = await asyncio.shield(decoder.process.exited)
    _log.warning("an image decoder %s", ended)
    if ended.from_outside:
        return ServingError(Code.UNAVAILABLE, "the process that decodes images was ended; try again", retry_after=1)
    return ServingError(Code.INVALID_ARGUMENT, "the image can't be read: its decoder crashed")
