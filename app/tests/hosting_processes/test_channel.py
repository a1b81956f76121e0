from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass_contract.manifest import DataType
from windlass_server.hosting import frames
from windlass_server.hosting.channel import ChannelClosedError, RequestTooLargeError, WorkerChannel
from windlass_server.hosting.frames import FrameError
from windlass_server.hosting.worker import Worker
from windlass_server.tensors import NUMPY_TYPE, PackedPixels, Tensor

Run = Callable[[Coroutine[Any, Any, Any]], Any]
LIMIT = 1024 * 1024


def pixels(count: int, datatype: DataType = DataType.FP32) -> PackedPixels:
    return PackedPixels.of(np.zeros(count, np.uint8), [count], datatype, (1.0, 0.0))


def joined(pieces: list[Any]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)


def read_back(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    head, body = frames.lengths(data, LIMIT)
    assert len(data) == frames.PREFIX.size + head + body
    return frames.decode(memoryview(data)[frames.PREFIX.size :], head)


tensors = st.sampled_from(list(NUMPY_TYPE.values())).flatmap(
    lambda dtype: st.lists(st.integers(0, 5), max_size=3).map(
        lambda shape: (
            np.full(shape, b"a\0b", dtype=object) if dtype.kind == "O" else np.ones(shape, np.int8).astype(dtype)
        )
    )
)


@given(st.dictionaries(st.text(max_size=5), tensors, max_size=4))
def test_tensors_of_every_type_and_shape_survive_a_frame(sent: dict[str, Tensor]) -> None:
    head, received = read_back(joined(frames.encode({"op": "run"}, sent)))
    assert head == {"op": "run"}
    assert list(received) == list(sent)
    for name, tensor in sent.items():
        assert received[name].dtype == tensor.dtype
        np.testing.assert_array_equal(received[name], tensor)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_a_frame_of_anything_is_refused_or_read(data: bytes, head_bytes: int) -> None:
    try:
        head, received = frames.decode(memoryview(data), min(head_bytes, len(data)))
    except FrameError:
        return
    assert isinstance(head, dict)
    assert received == {}


@pytest.mark.parametrize(
    "listed",
    [
        [["x", "FP32", [2], 4]],
        [["x", "FP32", [2], 400]],
        [["x", "FP32", [2], -1]],
        [["x", "FP31", [2], 8]],
        [["x", "FP32", [-2], 8]],
        [["x", "FP32", [1099511627776, 4], 8]],
        [["x"]],
        7,
    ],
)
def test_tensors_that_do_not_add_up_are_refused(listed: Any) -> None:
    import orjson

    head = orjson.dumps({"tensors": listed})
    with pytest.raises(FrameError):
        frames.decode(memoryview(head + bytes(8)), len(head))


def test_lengths_beyond_the_bound_are_refused_before_anything_is_allocated() -> None:
    with pytest.raises(FrameError, match="a frame of 1152921504606846976 bytes"):
        frames.lengths(frames.PREFIX.pack(10, 2**60), LIMIT)
    with pytest.raises(FrameError, match="head of 4294967295 bytes"):
        frames.lengths(frames.PREFIX.pack(2**32 - 1, 0), LIMIT)


def test_tensors_lie_aligned_in_a_frame() -> None:
    sent = {"a": np.ones(3, np.int8), "b": np.ones(3, ml_dtypes.bfloat16), "c": np.ones(3)}
    head_bytes, body = frames.lengths(joined(frames.encode({}, sent)), LIMIT)
    assert head_bytes % frames.ALIGNMENT == 0
    assert body % frames.ALIGNMENT == 0


class Peer:
    """The other end, in a thread: answers each request by what `answer` makes of it."""

    def __init__(self, answer: Callable[[dict[str, Any], dict[str, Tensor]], list[Any]]) -> None:
        self.main, self._socket = socket.socketpair()
        self._answer = answer
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        with self._socket, self._socket.makefile("rb") as file:
            while prefix := file.read(frames.PREFIX.size):
                head_bytes, body = frames.lengths(prefix, 1 << 30)
                head, received = frames.decode(memoryview(file.read(head_bytes + body)), head_bytes)
                pieces = self._answer(head, received)
                if not pieces:
                    return
                try:
                    self._socket.sendall(joined(pieces))
                except OSError:
                    return


def talk(run: Run, peer: Peer, work: Callable[[WorkerChannel, list[str]], Coroutine[Any, Any, Any]]) -> Any:
    async def main() -> Any:
        reasons: list[str] = []
        channel = WorkerChannel(
            peer.main, max_request_bytes=64 * LIMIT, max_answer_bytes=64 * LIMIT, on_close=reasons.append
        )
        try:
            return await work(channel, reasons)
        finally:
            channel.close()

    try:
        return run(main())
    finally:
        peer.thread.join()


def echo(head: dict[str, Any], received: dict[str, Tensor]) -> list[Any]:
    return frames.encode({"id": head["id"]}, received)


@pytest.mark.parametrize("elements", [0, 1, 1000, 20_000, 3_000_000])
def test_answers_of_every_size_come_back_whole(run: Run, elements: int) -> None:
    async def work(channel: WorkerChannel, _reasons: list[str]) -> None:
        sent = np.arange(elements, dtype=np.float32)
        answers = await asyncio.gather(*(channel.send({"op": "x"}, {"t": sent + index}) for index in range(5)))
        for index, (_, received) in enumerate(answers):
            np.testing.assert_array_equal(received["t"], sent + index)

    talk(run, Peer(echo), work)


def test_answers_may_come_in_any_order(run: Run) -> None:
    held: list[dict[str, Any]] = []

    def two_at_a_time(head: dict[str, Any], _received: dict[str, Tensor]) -> list[Any]:
        held.append(head)
        if len(held) % 2:
            return [b""]
        return [*frames.encode({"id": held[-1]["id"], "n": 1}), *frames.encode({"id": held[-2]["id"], "n": 0})]

    async def work(channel: WorkerChannel, _reasons: list[str]) -> None:
        answers = await asyncio.gather(channel.send({}), channel.send({}))
        assert [head["n"] for head, _ in answers] == [0, 1]

    talk(run, Peer(two_at_a_time), work)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda *_: [frames.PREFIX.pack(2, 1 << 50) + b"{}"], "the worker sent a frame of 1125899906842624 bytes"),
        (lambda *_: [frames.PREFIX.pack(1 << 30, 0)], "the worker sent a frame's head of 1073741824 bytes"),
        (lambda *_: [frames.PREFIX.pack(2, 0) + b"no"], "the worker sent a frame that can't be read"),
        (
            lambda head, _: frames.encode({"id": head["id"]}, {"y": pixels(4)}),
            "the worker sent a frame that can't be read: pixels where none are expected",
        ),
        (lambda *_: frames.encode({"id": 77}), "the worker sent an answer that nobody asked for"),
        (lambda *_: frames.encode({"id": [1]}), "the worker sent an answer that nobody asked for"),
        (lambda *_: [], "the worker ended"),
    ],
)
def test_a_worker_that_breaks_the_rules_or_ends_fails_what_is_unanswered(
    run: Run, answer: Callable[..., list[Any]], reason: str
) -> None:
    async def work(channel: WorkerChannel, reasons: list[str]) -> None:
        with pytest.raises(ChannelClosedError, match=reason):
            await channel.send({})
        assert len(reasons) == 1
        assert channel.closed
        with pytest.raises(ChannelClosedError):
            await channel.send({})

    talk(run, Peer(answer), work)


def test_a_request_beyond_the_bound_is_not_sent_and_harms_no_other(run: Run) -> None:
    async def work(channel: WorkerChannel, _reasons: list[str]) -> None:
        with pytest.raises(RequestTooLargeError):
            channel.send({}, {"t": np.empty(65 * LIMIT, np.uint8)})
        with pytest.raises(RequestTooLargeError):
            channel.send({}, {"t": np.array([bytes(65 * LIMIT)], dtype=object)})
        # Small on the wire, and as large as any where it is unpacked.
        with pytest.raises(RequestTooLargeError):
            channel.send({}, {"t": pixels(33 * LIMIT, DataType.FP64)})
        assert channel.unanswered == 0
        await channel.send({})

    talk(run, Peer(echo), work)


def test_closing_the_channel_fails_what_is_unanswered_and_tells_the_worker(run: Run) -> None:
    async def work(channel: WorkerChannel, reasons: list[str]) -> None:
        future = channel.send({})
        channel.close()
        with pytest.raises(ChannelClosedError):
            await future
        assert reasons == []

    talk(run, Peer(lambda *_: [b""]), work)


class CountedSocket:
    """A socket whose `sendmsg` calls are counted."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.sent = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def sendmsg(self, *arguments: Any) -> int:
        self.sent += 1
        return self._inner.sendmsg(*arguments)


def test_what_is_sent_in_one_turn_of_the_loop_goes_in_one_call(run: Run) -> None:
    async def work(channel: WorkerChannel, _reasons: list[str]) -> int:
        counted = CountedSocket(channel._socket)
        channel._socket = counted  # type: ignore[assignment]
        answers = await asyncio.gather(*(channel.send({"op": "x"}, {"t": np.full(4, n)}) for n in range(20)))
        assert [received["t"][0] for _, received in answers] == list(range(20))
        return counted.sent

    assert talk(run, Peer(echo), work) == 1


def test_more_pieces_than_one_call_takes_are_sent_in_order(run: Run) -> None:
    async def work(channel: WorkerChannel, _reasons: list[str]) -> None:
        count = frames.MAX_BUFFERS
        answers = await asyncio.gather(*(channel.send({"op": "x"}, {"t": np.full(5, n)}) for n in range(count)))
        assert [received["t"][0] for _, received in answers] == list(range(count))

    talk(run, Peer(echo), work)


def test_a_channel_that_is_closed_before_its_turn_sends_nothing(run: Run) -> None:
    async def work(channel: WorkerChannel, _reasons: list[str]) -> None:
        future = channel.send({"op": "x"})
        channel.close()
        with pytest.raises(ChannelClosedError, match="closed"):
            await future

    talk(run, Peer(echo), work)


@pytest.mark.parametrize("piece", [1, 7, 1000, 64 * 1024, 200_000])
def test_a_worker_takes_requests_apart_however_they_arrive(piece: int) -> None:
    sizes = [0, 1, 16, 10_000, 40_000, 3, 5]
    sent = b"".join(joined(frames.encode({"n": n}, {"t": np.full(size, n)})) for n, size in enumerate(sizes))
    main, other = socket.socketpair()

    def send() -> None:
        with main:
            for start in range(0, len(sent), piece):
                main.sendall(sent[start : start + piece])

    thread = threading.Thread(target=send)
    thread.start()
    argument = {"path": "/", "threads": 1, "maxRequestBytes": LIMIT, "maxAnswerBytes": LIMIT, "confinement": {}}
    with other:
        worker = Worker(other, "litert", argument)
        for number, size in enumerate(sizes):
            ((head, received),), _ = worker._receive()
            assert head == {"n": number}
            np.testing.assert_array_equal(received["t"], np.full(size, number))
        with pytest.raises(EOFError):
            worker._receive()
    thread.join()
