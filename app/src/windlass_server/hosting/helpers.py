"""Processes that do dangerous or slow work for main and may die: started by the launcher at the first need, so without
anything that is secret, and replaced when one crashed, was too slow or took too much memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from windlass_server.errors import Code, ServingError
from windlass_server.hosting.channel import Answer, ChannelClosedError, RequestTooLargeError, WorkerChannel
from windlass_server.hosting.launcher import Launcher, LauncherError, WorkerExit, WorkerProcess
from windlass_server.tensors import Tensor

_log = logging.getLogger(__name__)

_MAX_ANSWER_BYTES = 1024 * 1024 * 1024
_EXIT_SECONDS = 10


@dataclass(frozen=True)
class HelperSettings:
    """Sizes in bytes, times in seconds."""

    kind: str
    """What they do: one of `helper_process`."""
    name: str
    """For people: `an image decoder`."""
    memory_bytes: int
    """That one may use besides what it has at its start."""
    max_request_bytes: int
    argument: Mapping[str, Any] = field(default_factory=dict)
    """What its process is told besides."""
    start_deadline: float = 60.0


class HelperDiedError(Exception):
    """It ended before it answered; `exit` says how."""

    def __init__(self, how: WorkerExit) -> None:
        super().__init__(str(how))
        self.exit = how


class Helper:
    """One process and its channel."""

    def __init__(self, process: WorkerProcess, settings: HelperSettings) -> None:
        self.process = process
        self._name = settings.name
        self._channel = WorkerChannel(
            process.socket,
            max_request_bytes=settings.max_request_bytes,
            max_answer_bytes=_MAX_ANSWER_BYTES,
            on_close=lambda _reason: None,
            pixels=settings.kind == "images",
        )

    @property
    def alive(self) -> bool:
        """It can be asked."""
        return not self._channel.closed

    @property
    def idle(self) -> bool:
        """It can be asked by somebody else: it is alive, and not busy with what nobody waits for any more."""
        return self.alive and not self._channel.unanswered

    async def ask(self, head: dict[str, Any], tensors: Mapping[str, Tensor]) -> Answer:
        """Raises `HelperDiedError`, and `ServingError` for a request that is too large or that it refuses."""
        try:
            answer, results = await self._channel.send(head, tensors)
        except RequestTooLargeError as error:
            raise ServingError(Code.PAYLOAD_TOO_LARGE, str(error)) from error
        except ChannelClosedError:
            self.kill()
            async with asyncio.timeout(_EXIT_SECONDS):
                ended = await asyncio.shield(self.process.exited)
            _log.warning("%s %s", self._name, ended)
            raise HelperDiedError(ended) from None
        if "code" in answer:
            raise ServingError(Code(answer["code"]), answer["message"])
        return answer, results

    def kill(self) -> None:
        """Ends it at once."""
        self._channel.close()
        self.process.kill()


class Helpers:
    """Those of one kind. Belongs to the event loop; `close` ends them. How many there are at a time is its user's
    business."""

    def __init__(self, launcher: Launcher, settings: HelperSettings) -> None:
        self._launcher = launcher
        self._settings = settings
        self._unused: list[Helper] = []
        self.started = 0
        """Processes so far."""

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Helper]:
        """One that nobody else asks meanwhile. Raises `ServingError` UNAVAILABLE when none can be started."""
        helper = await self._take()
        try:
            yield helper
        finally:
            # One that is still busy, because its client left or its time was over, is of no use to the next.
            if helper.idle:
                self._unused.append(helper)
            else:
                helper.kill()

    async def close(self) -> None:
        """Ends all that nobody asks; the others end with the launcher."""
        while self._unused:
            self._unused.pop().kill()

    async def _take(self) -> Helper:
        while self._unused:
            helper = self._unused.pop()
            if helper.alive:
                return helper
        settings = self._settings
        argument = {
            **settings.argument,
            "path": "/", "threads": 1, "kind": settings.kind, "memoryBytes": settings.memory_bytes,
            "maxRequestBytes": settings.max_request_bytes, "maxAnswerBytes": _MAX_ANSWER_BYTES,
        }  # fmt: skip
        try:
            process = await self._launcher.spawn(
                "helpers", argument, within=settings.start_deadline, context={"part": settings.name}
            )
        except LauncherError as error:
            raise ServingError(Code.UNAVAILABLE, f"there is no {settings.name}: {error}", retry_after=1) from error
        self.started += 1
        return Helper(process, settings)
