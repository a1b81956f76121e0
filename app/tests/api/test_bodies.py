"""The bodies of all requests together: who gets room, who gives it up, and that all of it is given back."""

import asyncio
from types import SimpleNamespace

import pytest

from windlass_server.api import bodies as bodies_module
from windlass_server.api.bodies import SMALL_BYTES, Bodies
from windlass_server.api.exchange import Request
from windlass_server.api.limits import Limits
from windlass_server.errors import ServingError

MIB = 2**20
POST = {"type": "http", "method": "POST", "headers": []}


class Sender:
    """A request whose client the test is."""

    def __init__(self, bodies):
        self._bodies = bodies
        self._pieces = asyncio.Queue()
        self._answer = asyncio.Event()
        self.read = asyncio.Event()
        """Its body is there."""
        self.task = asyncio.create_task(self._serve())

    async def _serve(self):
        with self._bodies.body() as arriving:
            request = Request(POST, self._pieces.get, Limits(), arriving)
            try:
                body = await request.body()
            except ServingError as error:
                return error.http_status, error.retry_after
            self.read.set()
            await self._answer.wait()
            return 200, len(body)

    async def send(self, data, more=True):
        self._pieces.put_nowait({"type": "http.request", "body": data, "more_body": more})
        for _ in range(5):
            await asyncio.sleep(0)

    async def answered(self):
        self._answer.set()
        async with asyncio.timeout(20):
            return await self.task


@pytest.fixture
def clock(monkeypatch):
    """Time goes on when the test says so."""
    now = [1000.0]
    monkeypatch.setattr(bodies_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def play(scenario):
    asyncio.run(scenario())


def test_small_bodies_need_no_room(clock):
    async def scenario():
        bodies = Bodies(MIB)
        senders = [Sender(bodies) for _ in range(100)]
        for each in senders:
            await each.send(bytes(SMALL_BYTES), more=False)
        assert bodies.held == 0
        assert {await each.answered() for each in senders} == {(200, SMALL_BYTES)}

    play(scenario)


def test_who_holds_room_and_hardly_sends_gives_it_up_to_who_does(clock):
    async def scenario():
        bodies = Bodies(10 * MIB)
        idle, trickling, steady = Sender(bodies), Sender(bodies), Sender(bodies)
        await idle.send(bytes(4 * MIB))
        await trickling.send(bytes(3 * MIB))
        for _ in range(20):
            clock[0] += 1
            await trickling.send(bytes(100))
        await steady.send(bytes(2 * MIB))
        assert bodies.held == pytest.approx(9 * MIB, abs=MIB / 100)
        await steady.send(bytes(2 * MIB))
        assert await idle.answered() == (429, 1)
        assert not trickling.task.done()
        await steady.send(bytes(5 * MIB), more=False)
        assert await trickling.answered() == (429, 1)
        assert await steady.answered() == (200, 9 * MIB)
        assert (bodies.held, bodies.given_up) == (0, 2)

    play(scenario)


def test_among_those_who_send_the_newcomer_is_told_to_come_back(clock):
    async def scenario():
        bodies = Bodies(9 * MIB)
        senders = [Sender(bodies) for _ in range(3)]
        for each in senders:
            for _ in range(2):
                await each.send(bytes(MIB))
        late = Sender(bodies)
        await late.send(bytes(MIB))
        for each in senders:
            await each.send(bytes(MIB))
        assert await late.answered() == (429, 1)
        assert bodies.held == 9 * MIB
        for each in senders:
            await each.send(b"", more=False)
            assert await each.answered() == (200, 3 * MIB)
        assert bodies.held == 0

    play(scenario)


def test_a_body_that_is_complete_keeps_its_room_until_it_is_answered(clock):
    async def scenario():
        bodies = Bodies(4 * MIB)
        first, second, third = (Sender(bodies) for _ in range(3))
        await first.send(bytes(3 * MIB), more=False)
        await first.read.wait()
        clock[0] += 1000
        await second.send(bytes(2 * MIB))
        assert await second.answered() == (429, 1)
        assert await first.answered() == (200, 3 * MIB)
        await third.send(bytes(2 * MIB), more=False)
        assert await third.answered() == (200, 2 * MIB)

    play(scenario)


def test_what_a_body_becomes_may_need_more_room_than_its_text(clock):
    async def scenario():
        bodies = Bodies(4 * MIB)
        with bodies.body() as small, bodies.body() as first, bodies.body() as second:
            small.became(64 * MIB)  # of a small body
            first.grew(MIB)
            second.grew(MIB)
            first.became(MIB // 4)
            assert bodies.held == 2 * MIB
            first.became(2 * MIB)
            assert bodies.held == 3 * MIB
            with pytest.raises(ServingError, match="too many large requests") as caught:
                second.became(3 * MIB)
            assert (caught.value.http_status, caught.value.unread) == (429, False)
        assert (bodies.held, bodies.given_up) == (0, 1)

    play(scenario)


def test_an_answer_takes_room_until_it_is_taken(clock):
    async def scenario():
        bodies = Bodies(4 * MIB)
        with bodies.body() as small, bodies.body() as large:
            small.is_answered(SMALL_BYTES)
            assert bodies.held == 0
            small.is_answered(3 * MIB)
            large.grew(MIB)
            large.is_answered(MIB)
            assert bodies.held == 4 * MIB
            with pytest.raises(ServingError, match="too many large requests"):
                large.is_answered(MIB + 1)
        assert bodies.held == 0

    play(scenario)


def test_one_that_becomes_more_than_there_is_is_worked_on_alone(clock):
    async def scenario():
        bodies = Bodies(4 * MIB)
        with bodies.body() as alone:
            alone.grew(MIB)
            alone.became(64 * MIB)
            assert bodies.held == bodies.most
        assert bodies.held == 0

    play(scenario)


def test_one_that_is_being_refused_is_not_given_up_on_top_of_it(clock):
    """It is neither arriving nor forgotten: what it held comes back once it is answered."""

    async def scenario():
        bodies = Bodies(4 * MIB)
        with bodies.body() as arriving:
            pieces = asyncio.Queue()
            for _ in range(3):
                pieces.put_nowait({"type": "http.request", "body": bytes(MIB), "more_body": True})
            request = Request(POST, pieces.get, Limits(max_body_bytes=2 * MIB), arriving)
            with pytest.raises(ServingError, match="larger than"):
                await request.body()
            clock[0] += 1000
            other = Sender(bodies)
            await other.send(bytes(2 * MIB), more=False)
            await other.read.wait()
            third = Sender(bodies)
            await third.send(bytes(MIB))
            assert await third.answered() == (429, 1)
        assert await other.answered() == (200, 2 * MIB)
        assert (bodies.held, bodies._arriving) == (0, set())

    play(scenario)


def test_a_request_that_is_cancelled_for_another_reason_stays_cancelled(clock):
    async def scenario():
        bodies = Bodies(4 * MIB)
        sender = Sender(bodies)
        await sender.send(bytes(MIB))
        sender.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sender.task
        assert bodies.held == 0

    play(scenario)
