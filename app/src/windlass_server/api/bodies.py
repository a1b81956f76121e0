"""The bodies of all requests together: how many bytes are held at once.

Each request has a bound of its own; this one is for very many that come near it at the same time. Bytes count from
when they arrive until their request is answered, and its answer taken: what counts is the most of body, tensors and
answer. Small ones don't count: the number of connections bounds those.
When there is no room, the body that arrives most slowly is given up, so that who holds room and hardly sends loses it.
A body that is complete is never given up.
"""

from __future__ import annotations

import asyncio
import math
import time

from windlass_server.errors import Code, ServingError

SMALL_BYTES = 64 * 1024
"""Up to here a body doesn't count."""
DEFAULT_BYTES = 256 * 1024 * 1024
_RECENT_SECONDS = 2.0
"""How long ago a byte arrived, for its weight in a body's speed to be a third."""


class Bodies:
    """What is held. Belongs to the event loop's thread."""

    def __init__(self, most: int = DEFAULT_BYTES) -> None:
        self.most = most
        self.held = 0
        """Bytes."""
        self.given_up = 0
        """Requests, for want of room."""
        self._arriving: set[Body] = set()

    def body(self) -> Body:
        """Of a request that the running task reads and answers."""
        return Body(self)

    def take(self, body: Body, size: int) -> None:
        """Raises `ServingError` when there is no room, and `body` is the slowest."""
        self._arriving.add(body)
        while self.held + size > self.most:
            self.given_up += 1
            now = time.monotonic()
            slowest = min(self._arriving, key=lambda each: each.speed(now))
            if slowest is body:
                raise no_room()
            slowest.give_up()
        self.held += size

    def settled(self, body: Body) -> None:
        """Nothing more is read of it: it can't be given up any more."""
        self._arriving.discard(body)

    def take_more(self, more: int) -> None:
        """For a body that is there. `more`: bytes that working on it takes. Raises `ServingError`."""
        if self.held + more > self.most:
            self.given_up += 1
            raise no_room(unread=False)
        self.held += more

    def give_back(self, body: Body, size: int) -> None:
        """It is answered, or given up."""
        self._arriving.discard(body)
        self.held -= size


class Body:
    """One of them; `with` ends it."""

    __slots__ = ("_all", "_given_up", "_held", "_recent", "_recent_at", "_seen", "_task")

    def __init__(self, bodies: Bodies) -> None:
        self._all = bodies
        self._seen = 0
        self._held = 0
        """Bytes that count."""
        self._recent = 0.0
        self._recent_at = 0.0
        self._task: asyncio.Task[object] | None = None
        self._given_up = False

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._all.give_back(self, self._held)
            self._held = 0

    def speed(self, now: float) -> float:
        """In which it arrived lately; for comparisons."""
        return self._recent * math.exp((self._recent_at - now) / _RECENT_SECONDS)

    def grew(self, size: int) -> None:
        """So many bytes of it arrived. Raises `ServingError`."""
        self._seen += size
        if self._seen <= SMALL_BYTES:
            return
        now = time.monotonic()
        self._recent, self._recent_at = self.speed(now) + size, now
        self._task = asyncio.current_task()
        more = self._seen - self._held
        self._all.take(self, more)
        self._held += more

    def settle(self) -> None:
        """Nothing more is read of it, for whatever reason."""
        if self._task is not None:
            self._all.settled(self)

    def became(self, size: int) -> None:
        """It was read: there are tensors of so many bytes now, for which it may need more room than its text did.
        Raises `ServingError`."""
        if self._held:
            self._hold(size)

    def is_answered(self, size: int) -> None:
        """There is an answer of so many bytes, until its client has taken it. Raises `ServingError`."""
        if size > SMALL_BYTES:
            self._task = self._task or asyncio.current_task()
            self._hold(size)

    def _hold(self, size: int) -> None:
        # One that takes all there is can be worked on alone.
        more = min(size, self._all.most) - self._held
        if more > 0:
            self._all.take_more(more)
            self._held += more

    def give_up(self) -> None:
        """For the sake of another: what reads it is interrupted, and told by `interrupted`."""
        self._given_up = True
        self._all.give_back(self, self._held)
        self._held = 0
        if self._task is not None:
            self._task.cancel()

    def interrupted(self) -> bool:
        """Whether a cancellation of the task came of `give_up` alone; then it is over."""
        return self._given_up and self._task is not None and self._task.uncancel() == 0


def no_room(*, unread: bool = True) -> ServingError:
    """What the client is told."""
    message = "too many large requests are received, worked on and answered at once: try again"
    return ServingError(Code.RESOURCE_EXHAUSTED, message, retry_after=1, unread=unread)
