"""Large JSON is read and written by `helpers`, at low priority: while one does, nobody else waits for Python's lock.

Bodies up to a MiB have turns of their own, so that they don't wait behind the largest; so have answers. What comes back
is tensors, or text: no Python object is made here for a value of JSON.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson

from windlass_contract.manifest import Signature
from windlass_server.api.bodies import DEFAULT_BYTES, no_room
from windlass_server.api.document import Inputs
from windlass_server.api.json_work import LARGE, Reading, WorkHere, Writer, size_of, write_here
from windlass_server.api.limits import Limits
from windlass_server.api.oip_infer import Inference
from windlass_server.api.signatures import Interface
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.channel import Answer
from windlass_server.hosting.cpus import available_cpus
from windlass_server.hosting.helpers import Helper, HelperDiedError, Helpers, HelperSettings
from windlass_server.hosting.launcher import Launcher
from windlass_server.tensors import Tensor

_MIB = 1024 * 1024
_OBJECT_FACTOR = 24
"""Bytes that a helper needs at most for a byte of text, nearly: `[],` becomes 64, `[1.5],` 120, `{"":1},` 180."""
_HEAD_BYTES = 1024 * 1024
"""Besides the body or the tensors."""


@dataclass(frozen=True)
class JsonSettings:
    """Sizes in bytes, times in seconds."""

    limits: Limits = field(default_factory=Limits)
    deadline: float = 30.0
    """For reading one body, and for writing one answer."""
    at_work: int = DEFAULT_BYTES
    """Of memory that reading takes, by an estimate; one that takes more is read alone."""
    max_answer_bytes: int = 256 * _MIB
    """Of a model's answer."""
    places: int = field(default_factory=lambda: max(1, available_cpus() - 1))
    """At a time: for bodies up to `small_bytes`, for larger ones, and for answers."""
    small_bytes: int = _MIB
    queue: int = 64
    """Bodies that wait for a place."""
    patience: float = 10.0
    """For how long they do."""

    @property
    def memory_bytes(self) -> int:
        """That a helper may use besides what it has at its start."""
        return 2 * self.max_answer_bytes + 16 * self.limits.max_json_bytes


class Turns:
    """First come, first served: so many at a time, which together have a size of no more than `room`, or one alone."""

    def __init__(self, places: int, room: int) -> None:
        self._places = places
        self._room = room
        self._busy = 0
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """How many do."""
        return len(self._waiting)

    @asynccontextmanager
    async def turn(self, size: int, patience: float | None = None) -> AsyncIterator[None]:
        """Waits for it, for at most `patience` seconds. Raises `TimeoutError`."""
        if self._waiting or not self._fits(size):
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((size, future))
            try:
                async with asyncio.timeout(patience):
                    await future
            except BaseException:
                if future.done() and not future.cancelled():
                    self._leave(size)  # it came at the same moment
                else:
                    self._waiting.remove((size, future))
                    self._call_next()
                raise
        else:
            self._enter(size)
        try:
            yield
        finally:
            self._leave(size)

    def _fits(self, size: int) -> bool:
        return self._busy < self._places and (not self._busy or self._taken + size <= self._room)

    def _enter(self, size: int) -> None:
        self._busy += 1
        self._taken += size

    def _leave(self, size: int) -> None:
        self._busy -= 1
        self._taken -= size
        self._call_next()

    def _call_next(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, future = self._waiting.popleft()
            self._enter(size)
            future.set_result(None)


class JsonHelpers:
    """`JsonWork`. Belongs to the event loop; `close` ends its processes."""

    def __init__(self, launcher: Launcher, settings: JsonSettings | None = None) -> None:
        self.settings = settings or JsonSettings()
        self.refused = 0
        """Bodies, since there were too many before them."""
        self._here = WorkHere(self.settings.limits)
        self._small, self._large, self._answers = (Turns(self.settings.places, self.settings.at_work) for _ in range(3))
        body, answer = self.settings.limits.max_body_bytes, self.settings.max_answer_bytes
        self.helpers = Helpers(
            launcher,
            HelperSettings(
                "json", "reader of JSON", self.settings.memory_bytes,
                max_request_bytes=max(body, answer) + _HEAD_BYTES, argument={"limits": asdict(self.settings.limits)},
            ),
        )  # fmt: skip

    def reading(self, body: bytes, size: int) -> AbstractAsyncContextManager[Reading]:
        """See `JsonWork`. It waits for its turn, for some seconds."""
        return self._here.reading(body, size) if size < LARGE else _ReadingElsewhere(self, body)

    async def write(self, writer: Writer, outputs: Mapping[str, Tensor], **arguments: Any) -> bytes:
        """See `JsonWork`."""
        size = size_of(outputs)
        if size < LARGE:
            return write_here(writer, outputs, arguments)
        tensors = {f"tensor {name}": tensor for name, tensor in outputs.items()}
        async with self._answers.turn(size), self.helpers.one() as helper:
            try:
                async with asyncio.timeout(self.settings.deadline):
                    _, texts = await ask(helper, {"op": "write", "writer": writer.__name__}, arguments, tensors)
            except TimeoutError:
                raise ServingError(
                    Code.DEADLINE_EXCEEDED, f"writing the answer as JSON takes longer than {self.settings.deadline:g} s"
                ) from None
            except HelperDiedError:
                raise ServingError(
                    Code.UNAVAILABLE, "the process that writes JSON ended; try again, or ask for binary", retry_after=1
                ) from None
        return texts["text"].tobytes()

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """For reading a body of so many bytes. Raises `ServingError` RESOURCE_EXHAUSTED when it would have to wait for
        too long."""
        settings = self.settings
        turns = self._small if size <= settings.small_bytes else self._large
        if turns.waiting >= settings.queue:
            self.refused += 1
            raise no_room(unread=False)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(turns.turn(_OBJECT_FACTOR * size, settings.patience))
            except TimeoutError:
                self.refused += 1
                raise no_room(unread=False) from None
            yield

    async def close(self) -> None:
        """Ends all that are idle; the others end with the launcher."""
        await self.helpers.close()


async def ask(helper: Helper, head: dict[str, Any], arguments: Any, tensors: Mapping[str, Tensor]) -> Answer:
    """Asks for one thing. `arguments`: plain JSON. Raises as `Helper.ask`."""
    given = {"arguments": np.frombuffer(orjson.dumps(arguments), dtype=np.uint8)}
    answer, results = await helper.ask(head, given | dict(tensors))
    if "refused" in answer:
        raise ServingError(Code(answer["refused"]), results["message"].tobytes().decode("utf-8", "surrogatepass"))
    return answer, results


class _ReadingElsewhere:
    """`Reading`, a step at a time in one helper, which is let go after the last."""

    def __init__(self, work: JsonHelpers, body: bytes) -> None:
        self._work = work
        self._body: bytes | None = body
        self._stack = AsyncExitStack()
        self._helper: Helper | None = None
        self._until = 0.0

    async def __aenter__(self) -> Self:
        assert self._body is not None
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._work.turn(len(self._body)))
            self._helper = await stack.enter_async_context(self._work.helpers.one())
            self._until = asyncio.get_running_loop().time() + self._work.settings.deadline
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        async with self._stack:
            if self._helper is None or self._body is not None or not self._helper.idle:
                return
            # It was parsed, and then wasn't wanted: the model isn't there.
            if not isinstance(error, ServingError):
                self._helper.kill()
                return
            try:
                async with asyncio.timeout_at(self._until):
                    await self._helper.ask({"op": "forget"}, {})
            except (HelperDiedError, TimeoutError):
                self._helper.kill()

    async def tfs_signature(self) -> str:
        return str((await self._step("tfs_signature"))[0])

    async def plain_signature(self) -> str | None:
        name = (await self._step("plain_signature"))[0]
        return None if name is None else str(name)

    async def inputs(self, signature_name: str, signature: Signature) -> Inputs:
        given = {"name": signature_name, "signature": signature.to_dict()}
        result, tensors = await self._step("inputs", given, last=True)
        return Inputs(tensors, result["inRows"], result["flat"])

    async def examples(self) -> Tensor:
        _, tensors = await self._step("examples", last=True)
        return tensors["examples"]

    async def inference(self, header_length: bytes | None, interface: Interface) -> Inference:
        given = {
            "headerLength": None if header_length is None else header_length.decode("latin-1"),
            "model": interface.model,
            "signatures": {name: signature.to_dict() for name, signature in interface.signatures.items()},
        }
        result, tensors = await self._step("inference", given, last=True)
        return Inference(result["id"], result["signature"], tensors, result["outputs"], result["named"])

    async def _step(self, name: str, given: Any = None, *, last: bool = False) -> tuple[Any, dict[str, Tensor]]:
        assert self._helper is not None
        body, self._body = self._body, None
        tensors = {} if body is None else {"body": np.frombuffer(body, dtype=np.uint8)}
        del body
        try:
            async with asyncio.timeout_at(self._until):
                _, results = await ask(self._helper, {"op": "read", "step": name, "last": last}, given, tensors)
        except TimeoutError:
            raise ServingError(
                Code.DEADLINE_EXCEEDED, f"reading the JSON takes longer than {self._work.settings.deadline:g} s"
            ) from None
        except HelperDiedError as error:
            if error.exit.from_outside:
                raise ServingError(
                    Code.UNAVAILABLE, "the process that reads JSON was ended; try again", retry_after=1
                ) from None
            raise ServingError(
                Code.INVALID_ARGUMENT,
                "the JSON can't be read: its reader crashed, perhaps for want of memory; send binary tensors",
            ) from None
        except ServingError:
            self._helper = None  # it has forgotten the body
            raise
        if last:
            self._helper = None
            await self._stack.aclose()
        result = orjson.loads(results.pop("result").tobytes())
        return result, {name.removeprefix("tensor "): tensor for name, tensor in results.items()}
