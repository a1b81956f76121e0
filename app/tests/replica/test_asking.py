"""Requests of one worker, against a channel whose answers the test decides."""

from __future__ import annotations

import asyncio
import time

import pytest

from windlass_server.errors import Code, ServingError
from windlass_server.hosting.asking import Asking, WorkerDownError
from windlass_server.hosting.channel import ChannelClosedError, RequestTooLargeError

SOON = 0.05


class Channel:
    """Keeps what is sent."""

    def __init__(self):
        self.posted = {}
        self.refuses = None

    def post(self, head, _tensors, then):
        if self.refuses is not None:
            raise self.refuses
        self.posted[head["n"]] = then

    def answer(self, number, **said):
        self.posted.pop(number)(({"n": number, **said}, {}))

    def close(self):
        self.refuses = ChannelClosedError("it ended")
        posted, self.posted = self.posted, {}
        for then in posted.values():
            then(ChannelClosedError("it ended"))


def run(test):
    def wrapped():
        async def bounded():
            async with asyncio.timeout(30):
                channel = Channel()
                await test(channel, Asking(channel, threads=1))

        asyncio.run(bounded())

    return wrapped


@run
async def test_no_more_are_sent_than_there_are_places_and_the_rest_follow_in_order(channel, asking):
    asked = [asking.ask({"n": number}) for number in range(5)]
    assert list(channel.posted) == [0, 1]
    channel.answer(1)
    assert list(channel.posted) == [0, 2]
    channel.answer(0)
    channel.answer(2)
    assert list(channel.posted) == [3, 4]
    assert [(await each.answer)[0]["n"] for each in asked[:3]] == [0, 1, 2]
    assert not asked[3].answer.done()


@run
async def test_a_quick_worker_is_sent_more(channel, asking):
    for number in range(50):
        asking.ask({"n": number})
    for number in range(8):
        channel.answer(number, seconds=0.00001)
    assert len(channel.posted) == 10


@run
async def test_each_deadline_is_kept_in_the_queue_and_in_the_worker(channel, asking):
    now = time.monotonic()
    late, early = asking.ask({"n": 0}, deadline=now + 10 * SOON), asking.ask({"n": 1}, deadline=now + SOON)
    waiting, forever = asking.ask({"n": 2}, deadline=now + 2 * SOON), asking.ask({"n": 3})
    for each, seconds in ((early, SOON), (waiting, 2 * SOON), (late, 10 * SOON)):
        with pytest.raises(TimeoutError):
            await each.answer
        assert seconds <= time.monotonic() - now
    assert (early.sent is None, waiting.sent is None, forever.sent is None) == (False, True, True)
    assert not forever.answer.done()
    assert asking.oldest_seconds >= 10 * SOON
    channel.answer(0)  # what was given up keeps its place until then
    assert list(channel.posted) == [1, 3]


@run
async def test_who_is_gone_keeps_its_place_or_loses_its_turn(channel, asking):
    asked = [asking.ask({"n": number}) for number in range(4)]
    asked[0].answer.cancel()
    asked[2].answer.cancel()
    assert list(channel.posted) == [0, 1]
    channel.answer(0)
    assert list(channel.posted) == [1, 3]


@run
async def test_all_fail_with_their_worker(channel, asking):
    asked = [asking.ask({"n": number}) for number in range(4)]
    channel.close()
    asked.append(asking.ask({"n": 5}))
    for each in asked:
        with pytest.raises(WorkerDownError, match="it ended"):
            await each.answer
    assert asking.oldest_seconds == 0


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (RequestTooLargeError("9 bytes"), ServingError(Code.PAYLOAD_TOO_LARGE, "9 bytes")),
        (ValueError("no type"), ValueError("no type")),
    ],
)
def test_what_can_not_be_sent_fails_alone(refusal, error):
    @run
    async def test(channel, asking):
        channel.refuses = refusal
        with pytest.raises(type(error), match=str(error)):
            await asking.ask({"n": 0}).answer
        channel.refuses = None
        asking.ask({"n": 1})
        asking.ask({"n": 2})
        assert list(channel.posted) == [1, 2]

    test()


@run
async def test_what_a_worker_refuses_is_raised(channel, asking):
    asked = asking.ask({"n": 0})
    channel.answer(0, code="INVALID_ARGUMENT", message="why")
    with pytest.raises(ServingError, match="why") as raised:
        await asked.answer
    assert raised.value.code is Code.INVALID_ARGUMENT
