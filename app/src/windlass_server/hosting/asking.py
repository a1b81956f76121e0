"""The requests of one worker: those it has, those that wait for a place, and when each is given up.

A request costs one future and no task, timer or callback of its own: the places are counted, the next in the queue is
sent by the answer before it, and one timer looks at all deadlines, when the earliest that there was is due.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from windlass_server.errors import Code, ServingError
from windlass_server.hosting.channel import Answer, ChannelClosedError, Outcome, RequestTooLargeError, WorkerChannel
from windlass_server.hosting.send_ahead import SendAhead
from windlass_server.tensors import Tensor


class WorkerDownError(Exception):
    """The worker is gone, or of no use any more; `HostedWorker.ended` says how."""


class Asked:
    """One request, and what came of it."""

    __slots__ = ("answer", "deadline", "head", "sent", "tensors")

    def __init__(
        self,
        head: dict[str, Any],
        tensors: Mapping[str, Tensor] | None,
        answer: asyncio.Future[Answer],
        deadline: float | None,
    ) -> None:
        self.head = head
        self.tensors: Mapping[str, Tensor] | None = tensors
        """Until it is sent."""
        self.answer = answer
        """Fails with `WorkerDownError`, `TimeoutError`, or `ServingError` when the worker says so. Cancelled, the
        request keeps its place until the worker has answered it."""
        self.deadline = deadline
        """By `time.monotonic`; None: it may take for ever."""
        self.sent: float | None = None
        """When it was; None: it waits for a place, or was never sent."""

    def fail(self, error: Exception) -> None:
        """Unless whoever asked is gone, or knows already."""
        self.tensors = None
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # seen: whoever waits may be cancelled in the same moment


class Asking:
    """Belongs to the event loop."""

    def __init__(self, channel: WorkerChannel, threads: int) -> None:
        """`threads`: requests that the worker runs at a time."""
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._ahead = SendAhead(threads)
        self._places = self._ahead.places
        """Free ones."""
        self._sent: dict[Asked, float] = {}
        """In order."""
        self._queue: deque[Asked] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")
        self.last_asked = 0.0
        """When the worker was sent the newest request that has a deadline, which is a client's: by `time.monotonic`."""

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest request that the worker was sent has been unanswered; 0 when there is none."""
        oldest = next(iter(self._sent.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def ask(
        self, head: dict[str, Any], tensors: Mapping[str, Tensor] | None = None, deadline: float | None = None
    ) -> Asked:
        """Sends a request, now or when there is a place for it."""
        asked = Asked(head, tensors, self._loop.create_future(), deadline)
        if self._places > 0:
            self._send(asked)
        else:
            self._queue.append(asked)
        if deadline is not None and deadline < self._due:
            self._look_at(deadline)
        return asked

    def _send(self, asked: Asked) -> None:
        try:
            self._channel.post(asked.head, asked.tensors, partial(self._answered, asked))
        except ChannelClosedError as error:
            asked.fail(WorkerDownError(str(error)))
        except RequestTooLargeError as error:
            asked.fail(ServingError(Code.PAYLOAD_TOO_LARGE, str(error)))
        except ValueError as error:  # tensors that no frame can hold: a fault of ours, and only this request's
            asked.fail(error)
        else:
            self._places -= 1
            self._sent[asked] = asked.sent = time.monotonic()
            if asked.deadline is not None:
                self.last_asked = asked.sent
        asked.tensors = None

    def _answered(self, asked: Asked, outcome: Outcome) -> None:
        del self._sent[asked]
        if isinstance(outcome, ChannelClosedError):
            asked.fail(WorkerDownError(str(outcome)))
            self._places += 1
        else:
            head, _ = outcome
            self._places += self._ahead.answered(head.get("seconds"))
            if "code" in head:
                asked.fail(ServingError(Code(head["code"]), str(head.get("message", ""))))
            elif not asked.answer.done():
                asked.answer.set_result(outcome)
        while self._queue and self._places > 0:
            following = self._queue.popleft()
            if not following.answer.done():
                self._send(following)

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = when
        self._timer = self._loop.call_later(max(when - time.monotonic(), 0.001), self._look)

    def _look(self) -> None:
        """Gives up what is due, and looks again when the next is."""
        self._timer, self._due = None, float("inf")
        now, following = time.monotonic(), float("inf")
        for asked in [*self._sent, *self._queue]:
            if asked.deadline is None or asked.answer.done():
                continue
            if asked.deadline <= now:
                asked.fail(TimeoutError())
            else:
                following = min(following, asked.deadline)
        self._queue = deque(asked for asked in self._queue if not asked.answer.done())
        if following < float("inf"):
            self._look_at(following)
