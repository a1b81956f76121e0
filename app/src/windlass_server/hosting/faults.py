"""Errors of a request that say whose fault it was: what the second answer and the breaker go by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from windlass_server.errors import Code, ServingError


class WorkerLostError(ServingError):
    """The worker went while it had the request."""

    def __init__(self, message: str, worker: int, crashed: Callable[[], Awaitable[bool]]) -> None:
        """`worker`: names it among all of the version's; `crashed` waits for its end and says whether it ended by its
        own fault."""
        super().__init__(Code.UNAVAILABLE, message, retry_after=1)
        self.worker = worker
        self.crashed = crashed


class NoAnswerInTimeError(ServingError):
    """The worker didn't answer in time."""

    def __init__(self, message: str, *, own_share: float) -> None:
        """`own_share`: of the time that there was, 0 to 1, how long the worker has had this request, or an earlier one,
        without answering it. The rest is the wait for a turn behind others that were answered."""
        super().__init__(Code.DEADLINE_EXCEEDED, message)
        self.own_share = own_share
