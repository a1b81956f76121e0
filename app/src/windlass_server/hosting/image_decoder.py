"""Images are decoded in processes that may die: `helpers`, a picture at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import orjson

from windlass_contract.manifest import DataType, ImageInput, TensorSpec
from windlass_server.api.images import ImageHeader, encoded_tensor
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.cpus import available_cpus
from windlass_server.hosting.helpers import Helper, HelperDiedError, Helpers, HelperSettings
from windlass_server.hosting.launcher import Launcher
from windlass_server.tensors import Tensor

_BYTES_PER_PIXEL = 16
"""Of the largest image: decoded, converted and resized, with a copy between each."""
_BYTES_BESIDES = 256 * 1024 * 1024
_MAX_ASKED = 256


@dataclass(frozen=True)
class DecoderSettings:
    """Sizes in bytes, times in seconds."""

    max_pixels: int = 50_000_000
    max_image_bytes: int = 64 * 1024 * 1024
    deadline: float = 10.0
    """For one image."""
    processes: int = field(default_factory=available_cpus)

    @property
    def memory_bytes(self) -> int:
        """That a decoder may use besides what it has at its start."""
        return _BYTES_BESIDES + _BYTES_PER_PIXEL * self.max_pixels


class ImageDecoder:
    """Belongs to the event loop; `close` ends its processes."""

    def __init__(self, launcher: Launcher, settings: DecoderSettings | None = None) -> None:
        settings = settings or DecoderSettings()
        self._deadline = settings.deadline
        self._turns = asyncio.Semaphore(settings.processes)
        self._asked: dict[tuple[int, int], tuple[ImageInput, TensorSpec, str]] = {}
        """What decoders are told of an input, by who asks for it: both stay the same for all of a version's images."""
        self.helpers = Helpers(
            launcher,
            HelperSettings(
                "images",
                "image decoder",
                settings.memory_bytes,
                max_request_bytes=settings.max_image_bytes + 1024 * 1024,
            ),
        )

    async def decode(self, data: bytes, header: ImageHeader, how: ImageInput, spec: TensorSpec) -> Tensor:
        """A batch of one image, as `packed_image` gives it. Raises `ServingError`: what that raises, INVALID_ARGUMENT
        for an image that its decoder dies of or doesn't finish, UNAVAILABLE when there is no decoder."""
        if spec.datatype is DataType.BYTES:
            return encoded_tensor(data, spec, how)  # the model decodes it, in its own process
        async with self._turns, self.helpers.one() as helper:
            return await self._ask(helper, data, header, how, spec)

    async def close(self) -> None:
        """Ends all that are idle; the others end with the launcher."""
        await self.helpers.close()

    async def _ask(self, helper: Helper, data: bytes, header: ImageHeader, how: ImageInput, spec: TensorSpec) -> Tensor:
        head = {
            "op": "decode",
            "wanted": self._wanted(how, spec),
            "header": [header.format, header.width, header.height, header.frames],
        }
        try:
            async with asyncio.timeout(self._deadline):
                _, tensors = await helper.ask(head, {"data": np.frombuffer(data, dtype=np.uint8)})
        except TimeoutError:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"decoding the image takes longer than {self._deadline:g} s"
            ) from None
        except HelperDiedError as error:
            if error.exit.from_outside:
                raise ServingError(
                    Code.UNAVAILABLE, "the process that decodes images was ended; try again", retry_after=1
                ) from None
            raise ServingError(Code.INVALID_ARGUMENT, "the image can't be read: its decoder crashed") from None
        return tensors["image"]

    def _wanted(self, how: ImageInput, spec: TensorSpec) -> str:
        known = self._asked.get((id(how), id(spec)))
        if known is None:
            if len(self._asked) >= _MAX_ASKED:
                self._asked.clear()
            # Both are kept, so that nothing else gets their ids.
            known = how, spec, orjson.dumps([how.to_dict(), spec.to_dict()]).decode()
            self._asked[id(how), id(spec)] = known
        return known[2]
