"""Constant load on a server, with nothing forgotten: an open loop with a timetable.

Each sender sends one request after the answer before, at the times the timetable says; one that is late sends at
once, and its latency counts from when it should have been sent, so that a stall shows in full.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

from windlass_testing import connections_closed


@dataclass(frozen=True)
class Answer:
    """One request and what became of it. Times in seconds of the monotonic clock."""

    sender: int
    due: float
    sent: float
    done: float
    status: int
    """HTTP status; 0: no answer."""
    version: str = ""
    epoch: int = -1
    instance: str = ""
    error: str = ""
    body: Any = None
    request_id: str = ""
    """The answer's `X-Request-Id`."""

    @property
    def lost(self) -> bool:
        """Any answer but 2xx, or none."""
        return not 200 <= self.status < 300

    @property
    def latency(self) -> float:
        """Seconds from when it was due."""
        return self.done - self.due


@dataclass(frozen=True)
class Request:
    """What to send, and how to see that the answer is right."""

    path: str
    json: Any
    check: Callable[[Any, str], str] = lambda _body, _version: ""
    """Given the decoded answer and the version that gave it: what is wrong with it; empty when it is right."""


@dataclass
class Load:
    """`with Load(url, [request], rate=100) as load: …`, then `load.answers`."""

    url: str
    requests: list[Request]
    rate: float
    """Requests per second, of all senders together."""
    senders: int = 8
    timeout: float = 30
    answers: list[Answer] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: connections_closed.run(self._run()), name="load")
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Sends no more, and waits for what was sent."""
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        start = time.monotonic()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=self.timeout)
        ) as session:
            await asyncio.gather(*(self._send(session, sender, start) for sender in range(self.senders)))

    async def _send(self, session: aiohttp.ClientSession, sender: int, start: float) -> None:
        interval = self.senders / self.rate
        turn = 0
        while not self._stop.is_set():
            due = start + (turn + sender / self.senders) * interval
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(min(early, 0.2))
                if early > 0.2:
                    continue
            self.answers.append(await self._ask(session, sender, turn, due))
            turn += 1

    async def _ask(self, session: aiohttp.ClientSession, sender: int, turn: int, due: float) -> Answer:
        request = self.requests[(turn + sender) % len(self.requests)]
        sent = time.monotonic()
        try:
            async with session.post(self.url + request.path, json=request.json) as response:
                text = await response.text()
                version = response.headers.get("X-Model-Version", "")
                error = text[:500] if response.status >= 300 else request.check(await response.json(), version)
                return Answer(
                    sender,
                    due,
                    sent,
                    time.monotonic(),
                    response.status,
                    version,
                    int(response.headers.get("X-Plan-Epoch", -1)),
                    response.headers.get("X-Instance", ""),
                    error,
                    request_id=response.headers.get("X-Request-Id", ""),
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            return Answer(sender, due, sent, time.monotonic(), 0, error=repr(error))

    @property
    def lost(self) -> list[Answer]:
        """What was not answered with 2xx."""
        return [answer for answer in self.answers if answer.lost]

    @property
    def wrong(self) -> list[Answer]:
        """2xx with an answer that isn't right."""
        return [answer for answer in self.answers if not answer.lost and answer.error]

    def steps_back(self) -> list[tuple[Answer, Answer]]:
        """Pairs of answers of one instance, the second sent after the first was there, with a smaller epoch."""
        pairs = []
        newest: dict[str, Answer] = {}
        by_done = sorted(self.answers, key=lambda answer: answer.done)
        position = 0
        for answer in sorted(self.answers, key=lambda answer: answer.sent):
            while position < len(by_done) and by_done[position].done <= answer.sent:
                earlier = by_done[position]
                if earlier.epoch > newest.get(earlier.instance, earlier).epoch or earlier.instance not in newest:
                    newest[earlier.instance] = earlier
                position += 1
            before = newest.get(answer.instance)
            if before is not None and not answer.lost and answer.epoch < before.epoch:
                pairs.append((before, answer))
        return pairs

    def quantile(self, share: float, since: float = 0) -> float:
        """Latency in seconds below which `share` of the answers lie that were due since a time."""
        latencies = sorted(answer.latency for answer in list(self.answers) if answer.due >= since and not answer.lost)
        return latencies[min(int(share * len(latencies)), len(latencies) - 1)] if latencies else 0.0
