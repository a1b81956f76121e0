"""Where JSON is read and written: small bodies and answers on the spot, large ones where they slow nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Protocol, Self

from windlass_contract.manifest import Signature
from windlass_server.tensors import PackedStrings, Tensor, raw_size, unpacked

from .bodies import SMALL_BYTES
from .document import Document, Inputs
from .limits import Limits
from .oip_infer import Inference
from .signatures import Interface

LARGE = SMALL_BYTES
"""Bytes from which on JSON isn't read and written on the spot: a millisecond's work, in which nobody else is answered.
A body that is read elsewhere also counts among those that are held."""
Writer = Callable[..., bytes]
"""One of `answer_texts`."""


class Reading(Protocol):
    """A body being read, with `Document`'s steps. One of the last three comes last: then others can be read."""

    async def tfs_signature(self) -> str: ...
    async def plain_signature(self) -> str | None: ...
    async def inputs(self, signature_name: str, signature: Signature) -> Inputs: ...
    async def examples(self) -> Tensor: ...
    async def inference(self, header_length: bytes | None, interface: Interface) -> Inference: ...


class JsonWork(Protocol):
    """Who reads and writes it."""

    @property
    def refused(self) -> int:
        """Bodies, since there were too many before them."""
        ...

    def reading(self, body: bytes, size: int) -> AbstractAsyncContextManager[Reading]:
        """To read a body. `size`: bytes of it that take work. Raises `ServingError`, RESOURCE_EXHAUSTED when there are
        too many at once."""
        ...

    async def write(self, writer: Writer, outputs: Mapping[str, Tensor], **arguments: Any) -> bytes:
        """An answer's text: what `writer` makes of these. Raises `ServingError`."""
        ...


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of them: how much there is to write."""
    size = 0
    for tensor in tensors.values():  # for each request, and a generator takes as long as all the rest
        size += raw_size(tensor)
    return size


class WorkHere:
    """In this process: large ones in a thread, which the others feel."""

    refused = 0

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def reading(self, body: bytes, size: int) -> AbstractAsyncContextManager[Reading]:
        """See `JsonWork`."""
        return _ReadingHere(Document(body, self._limits), size)

    async def write(self, writer: Writer, outputs: Mapping[str, Tensor], **arguments: Any) -> bytes:
        """See `JsonWork`."""
        if size_of(outputs) < LARGE:
            return write_here(writer, outputs, arguments)
        return await asyncio.to_thread(write_here, writer, outputs, arguments)


def write_here(writer: Writer, outputs: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> bytes:
    """On the spot: for small ones."""
    for tensor in outputs.values():
        if isinstance(tensor, PackedStrings):
            outputs = {name: unpacked(each) for name, each in outputs.items()}
            break
    return writer(outputs, **arguments)


class _ReadingHere:
    def __init__(self, document: Document, size: int) -> None:
        self._document = document
        self._small = size < LARGE

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        return None

    async def tfs_signature(self) -> str:
        step = self._document.tfs_signature
        return step() if self._small else await asyncio.to_thread(step)

    async def plain_signature(self) -> str | None:
        step = self._document.plain_signature
        return step() if self._small else await asyncio.to_thread(step)

    async def inputs(self, signature_name: str, signature: Signature) -> Inputs:
        step = self._document.inputs
        if self._small:
            return step(signature_name, signature)
        return await asyncio.to_thread(step, signature_name, signature)

    async def examples(self) -> Tensor:
        step = self._document.examples
        return step() if self._small else await asyncio.to_thread(step)

    async def inference(self, header_length: bytes | None, interface: Interface) -> Inference:
        step = self._document.inference
        if self._small:
            return step(header_length, interface)
        return await asyncio.to_thread(step, header_length, interface)
