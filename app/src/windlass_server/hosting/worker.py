"""A worker: the process that holds one version. It was forked from a template and knows nothing but its channel.

Each of its threads reads a request, runs it and answers it, and only one reads at a time: so a request is taken by the
thread that will run it, without a hand-over. Where running it takes less than waking the next thread, that one goes on
reading only after the answer, and the requests that came together are answered together. At the end of the channel the
process ends.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from windlass_contract.manifest import ModelFormat, Signature
from windlass_contract.operations import describe, forbidden_operations
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.batch_sizes import largest_size
from windlass_server.hosting.batching import (
    are_small,
    are_worth_it,
    company_of,
    filled,
    grouped,
    has_rows,
    join,
    random_rows,
    split,
)
from windlass_server.hosting.frames import (
    MAX_BUFFERS,
    PREFIX,
    Buffer,
    FrameError,
    advance,
    allocate,
    decode,
    encode,
    lengths,
    size_of,
)
from windlass_server.hosting.freezing import is_better
from windlass_server.hosting.memory_reading import private_bytes
from windlass_server.hosting.processes import lower_priority, run_when_idle, trim_memory
from windlass_server.hosting.slicing import (
    RowsLostError,
    are_as_good,
    is_sliced,
    rows_to_try,
    run_in_slices,
    tried_rows,
)
from windlass_server.hosting.usual import Usual
from windlass_server.runtimes import import_runtime
from windlass_server.runtimes.runtime import Runtime, check_inputs
from windlass_server.tensors import Tensor, unpacked

PREPARING_NICENESS = 10
"""Of the threads that check, load and warm up: those that serve later, and TensorFlow's, are made by others and keep
theirs."""

_MAX_MESSAGE = 1000
_READ_AHEAD = 64 * 1024

_T = TypeVar("_T")
_Request = tuple[dict[str, Any], dict[str, Tensor]]
"""Head and tensors of a frame."""
_Work = Callable[[dict[str, Any], dict[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]]]


def run(channel: socket.socket, runtime: str, argument: dict[str, Any]) -> NoReturn:
    """The whole life of a worker. `argument`: `path` of the version's folder, `threads`, `maxRequestBytes`,
    `maxAnswerBytes`, `scratch`, `confinement`: what it is denied by the kernel, and `prepareWhenIdle`."""
    channel.setblocking(True)
    worker = Worker(channel, runtime, argument)
    threads = [threading.Thread(target=worker.serve, daemon=True) for _ in range(argument["threads"] - 1)]
    for thread in threads:
        thread.start()
    worker.serve()
    raise AssertionError("serve returns only by ending the process")


class Worker:
    """What the threads share."""

    def __init__(self, channel: socket.socket, runtime: str, argument: dict[str, Any]) -> None:
        self._channel = channel
        self._runtime_name = runtime
        self._path = Path(argument["path"])
        self._threads: int = argument["threads"]
        self._max_request_bytes: int = argument["maxRequestBytes"]
        self._max_answer_bytes: int = argument["maxAnswerBytes"]
        self._confinement: dict[str, str] = argument["confinement"]
        self._model: Runtime | None = None
        self._frozen: Runtime | None = None
        """While it is tried."""
        self._ahead = allocate(_READ_AHEAD)
        self._ahead_start = self._ahead_end = 0
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._usual = Usual()
        self._prepare_when_idle: bool = argument.get("prepareWhenIdle", False)
        self._max_batch_size: int = largest_size(argument.get("maxBatchSize", 1))
        self._batched: set[str] = set()
        """Signatures whose requests are run together when they come together."""
        self._slice_rows: int = argument.get("sliceRows", 0)
        self._sliced: set[str] = set()
        """Signatures whose large requests are run so many rows at a time."""
        self._work: dict[str, _Work] = {
            "hello": self._hello,
            "check": self._check,
            "load": self._load,
            "freezable": self._freezable,
            "freeze": self._freeze,
            "try": self._try_frozen,
            "adopt": self._adopt,
            "batch": self._try_batches,
            "run": self._run,
        }

    def serve(self) -> NoReturn:
        """Takes requests until the channel ends, and with it the process."""
        while True:
            with self._reading:
                requests, at_once = self._take()
                while at_once:  # still the one that reads: letting go wakes another thread, in vain or to change places
                    self._answer_all(requests)
                    requests, at_once = self._take()
            self._answer_all(requests)
            del requests  # the next may be long in coming

    def _take(self) -> tuple[list[_Request], bool]:
        """See `_receive`."""
        try:
            return self._receive()
        except (OSError, EOFError, FrameError):
            os._exit(0)  # main has closed the channel, or is gone; a frame of it can't be wrong

    def _answer_all(self, requests: list[_Request]) -> None:
        groups = [[index] for index in range(len(requests))]
        if self._batched and len(requests) > 1:
            groups = grouped(
                [company_of(head, tensors, self._batched) for head, tensors in requests], self._max_batch_size
            )
        pieces: list[Buffer] = []
        for group in groups:
            together = [requests[index] for index in group]
            pieces += self._answer(*together[0]) if len(group) == 1 else self._answer_together(together)
        requests.clear()
        with self._writing:
            self._send(pieces)

    def _answer_together(self, requests: list[_Request]) -> list[Buffer]:
        """In one run. Where one of them is bad, each is run by itself and told what is wrong with it alone."""
        try:
            for head, tensors in requests:
                model, outputs = self._admit(head, tensors)
            begun = time.monotonic()
            rows = filled([_unpacked(each) for _, each in requests])
            answers = split(model.run(head["signature"], join(rows), outputs), len(rows))
            seconds = (time.monotonic() - begun) / len(requests)
            self._usual.note(seconds)
            return [
                piece
                for (head, _), answer in zip(requests, answers, strict=False)  # what fills the batch isn't asked for
                for piece in self._bounded(encode({"seconds": seconds, "id": head["id"]}, answer))
            ]
        except Exception:  # noqa: BLE001 - whatever it is: those it isn't about are answered all the same
            return [piece for request in requests for piece in self._answer(*request)]

    def _answer(self, head: dict[str, Any], tensors: dict[str, Tensor]) -> list[Buffer]:
        try:
            answer, results = self._work[head["op"]](head, tensors)
            return self._bounded(encode({**answer, "id": head["id"]}, results))
        except ServingError as error:
            return _refusal(head["id"], error.code, error.message)
        except MemoryError:
            return _refusal(head["id"], Code.RESOURCE_EXHAUSTED, "not enough memory")
        except Exception as error:  # noqa: BLE001 - a model may raise anything; the client gets to know
            traceback.print_exc()
            return _refusal(head["id"], Code.INTERNAL, f"{type(error).__name__}: {error}")

    def _bounded(self, pieces: list[Buffer]) -> list[Buffer]:
        size = size_of(pieces)
        if size > self._max_answer_bytes:
            raise ServingError(
                Code.INTERNAL, f"the model's answer has {size} bytes; at most {self._max_answer_bytes} are sent"
            )
        return pieces

    def _hello(self, _head: dict[str, Any], _tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"memory": private_bytes(), "confinement": self._confinement}, {}

    def _check(self, head: dict[str, Any], _tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the model may not do, in a sentence; empty: nothing. It isn't loaded yet."""
        found = self._gently(lambda: forbidden_operations(self._path, ModelFormat(head["format"]), head["allowed"]))
        return {"forbidden": describe(found) if found else ""}, {}

    def _load(self, _head: dict[str, Any], _tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        module = import_runtime(self._runtime_name)
        module.start(self._threads)
        model: Runtime = self._gently(lambda: module.load(self._path))
        self._model = model
        signatures = {name: signature.to_dict() for name, signature in model.signatures.items()}
        return {"signatures": signatures}, {}

    def _freezable(self, head: dict[str, Any], _tensors: dict[str, Tensor]) -> _Request:
        """How many bytes of variables the `served` signatures have that may become constants; see `Runtime`."""
        model = self._loaded()
        return {"bytes": self._gently(lambda: model.variable_bytes(head["served"], head["most"]))}, {}

    def _freeze(self, head: dict[str, Any], _tensors: dict[str, Tensor]) -> _Request:
        """Makes the frozen model of the `served` signatures. The one that serves is worth nothing if that fails."""
        model = self._loaded()
        self._frozen = self._gently(lambda: model.frozen(head["served"]))
        return {}, {}

    def _try_frozen(self, head: dict[str, Any], tensors: dict[str, Tensor]) -> _Request:
        """Whether a signature is better frozen. `tensors`: rows to find it out with; none: random ones; at most `rows`
        of them at a time."""
        model, frozen, name = self._loaded(), self._frozen, head["signature"]
        outputs = list(model.signatures[name].outputs)
        better = frozen is not None and self._holds(
            lambda: is_better(
                lambda each: model.run(name, each, outputs),
                lambda each: frozen.run(name, each, outputs),
                tensors or random_rows(model.signatures[name]),
                head["rows"],
            )
        )
        return {"better": better}, {}

    def _adopt(self, head: dict[str, Any], _tensors: dict[str, Tensor]) -> _Request:
        """From now on the frozen model runs, or it is forgotten."""
        if head["frozen"] and self._frozen is not None:
            self._model = self._frozen
        self._frozen = None
        self._gently(_clean_up)
        return {}, {}

    def _try_batches(self, head: dict[str, Any], tensors: dict[str, Tensor]) -> _Request:
        """Whether requests to a signature may be run together from now on, and large ones, of up to `rows` rows, in
        slices. `tensors`: rows to find it out with; none: random ones."""
        model, name = self._loaded(), head["signature"]
        signature: Signature = model.signatures[name]
        outputs = list(signature.outputs)
        most, size = self._max_batch_size, self._slice_rows

        def run(rows: dict[str, Tensor]) -> dict[str, Tensor]:
            return model.run(name, rows, outputs)

        if not has_rows(signature):
            return {"batched": False, "sliced": False}, {}
        if most > 1 and are_small(signature) and model.may_batch(name):
            rows = tensors or random_rows(signature)
            if self._holds(lambda: are_worth_it(run, rows, most)):
                self._batched.add(name)
        count = tried_rows(signature, head["rows"], size, self._max_request_bytes)
        worth_it = count and model.may_slice(name)
        if worth_it and self._holds(lambda: are_as_good(run, rows_to_try(signature, tensors, count), size)):
            self._sliced.add(name)
        return {"batched": name in self._batched, "sliced": name in self._sliced}, {}

    def _holds(self, shown: Callable[[], bool]) -> bool:
        """Whether a trial shows it. A model may raise anything; then nothing is shown, and it serves as it is."""
        try:
            return self._gently(shown)
        except Exception:  # noqa: BLE001 - see above
            return False

    def _run(self, head: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        model, outputs = self._admit(head, tensors)
        tensors = _unpacked(tensors)
        if head["trial"]:  # the first runs make what the later ones use, and nobody waits for them
            return {}, self._gently(lambda: self._run_model(model, head, tensors, outputs))
        begun = time.monotonic()
        answer = self._run_model(model, head, tensors, outputs)
        seconds = time.monotonic() - begun
        self._usual.note(seconds)
        return {"seconds": seconds}, answer

    def _run_model(
        self, model: Runtime, head: dict[str, Any], tensors: dict[str, Tensor], outputs: list[str]
    ) -> dict[str, Tensor]:
        name = head["signature"]
        if name in self._sliced and is_sliced(tensors, self._slice_rows):
            try:
                return run_in_slices(
                    lambda rows: model.run(name, rows, outputs),
                    tensors,
                    self._slice_rows,
                    lambda start: _check_time(head, f"after {start} of its rows were run") if start else None,
                )
            except RowsLostError:
                self._sliced.discard(name)  # it leaves rows out, which none of those that were tried had shown
        return model.run(name, tensors, outputs)

    def _admit(self, head: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Runtime, list[str]]:
        """What is to run a request, and the outputs to fetch. Raises `ServingError` for one that isn't to be run."""
        _check_time(head, "before its turn came")
        model = self._loaded()
        signature: Signature = model.signatures[head["signature"]]
        check_inputs(signature, tensors)
        return model, head["outputs"] or list(signature.outputs)

    def _gently(self, work: Callable[[], _T]) -> _T:
        """Does it at low priority. Linux keeps a priority per thread: one of its own is made for the work, since an
        ordinary user can lower a priority but not raise it again."""
        outcome: list[_T] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                lower_priority(PREPARING_NICENESS)
                if self._prepare_when_idle:
                    run_when_idle()
                outcome.append(work())
            except BaseException as error:  # noqa: BLE001 - it is raised again below
                failure.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def _loaded(self) -> Runtime:
        if self._model is None:
            raise ServingError(Code.UNAVAILABLE, "the model is not loaded")
        return self._model

    def _receive(self) -> tuple[list[_Request], bool]:
        """The next request, and of those behind it what is there already and is to be answered with it; and whether the
        thread is to answer them before another one reads. A large request is waited for by nobody else."""
        head, tensors = self._next()
        requests = [(head, tensors)]
        if sum(tensor.nbytes for tensor in tensors.values()) > len(self._ahead):
            return requests, False
        most = self._usual.group(self._max_batch_size if self._batched else 1)
        while len(requests) < most and self._is_there():
            requests.append(self._next())
        return requests, self._usual.at_once

    def _next(self) -> _Request:
        while self._ahead_end - self._ahead_start < PREFIX.size:
            self._read_ahead()
        head, body = lengths(self._ahead[self._ahead_start : self._ahead_end], self._max_request_bytes)
        self._ahead_start += PREFIX.size
        return decode(self._read(head + body), head, pixels=True)

    def _is_there(self) -> bool:
        """Whether a whole request has been read."""
        there = self._ahead_end - self._ahead_start
        if there < PREFIX.size:
            return False
        size = lengths(self._ahead[self._ahead_start : self._ahead_end], self._max_request_bytes)
        return there >= PREFIX.size + sum(size)

    def _read_ahead(self) -> None:
        there = self._ahead_end - self._ahead_start
        self._ahead[:there] = bytes(self._ahead[self._ahead_start : self._ahead_end])
        self._ahead_start, self._ahead_end = 0, there
        self._ahead_end += self._receive_into(self._ahead[there:])

    def _read(self, size: int) -> memoryview:
        """So many bytes, in a buffer of their own. Small requests come several at a time; of a large one all but its
        beginning is received where it stays."""
        buffer = allocate(size)
        filled = 0
        while filled < size:
            if self._ahead_start == self._ahead_end:
                if size - filled >= len(self._ahead):
                    filled += self._receive_into(buffer[filled:])
                    continue
                self._read_ahead()
            count = min(size - filled, self._ahead_end - self._ahead_start)
            buffer[filled : filled + count] = self._ahead[self._ahead_start : self._ahead_start + count]
            filled += count
            self._ahead_start += count
        return buffer

    def _receive_into(self, buffer: memoryview) -> int:
        count = self._channel.recv_into(buffer)
        if count == 0:
            raise EOFError
        return count

    def _send(self, pieces: list[Buffer]) -> None:
        try:
            while pieces:
                sent = self._channel.sendmsg(pieces[:MAX_BUFFERS], [], socket.MSG_NOSIGNAL)
                pieces = advance(pieces, sent)
        except OSError:
            os._exit(0)


def _clean_up() -> None:
    gc.collect()
    trim_memory()


def _unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: unpacked(tensor) for name, tensor in tensors.items()}


def _check_time(head: dict[str, Any], when: str) -> None:
    if head["deadline"] < time.monotonic():
        raise ServingError(Code.DEADLINE_EXCEEDED, f"the request's time was over {when}")


def _refusal(identity: int, code: Code, message: str) -> list[Buffer]:
    # An error's text may hold bytes of a model that are no text.
    text = message[:_MAX_MESSAGE].encode("utf-8", "replace").decode()
    return encode({"id": identity, "code": code.value, "message": text})
