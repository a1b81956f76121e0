"""Which requests are run together: the decisions, and a worker's way with a group of them."""

from __future__ import annotations

import math
import socket

import numpy as np
import pytest

from windlass_contract.manifest import DataType, Signature, TensorSpec
from windlass_server.errors import Code, ServingError
from windlass_server.hosting import batch_sizes, batching
from windlass_server.hosting.frames import PREFIX, decode, lengths
from windlass_server.hosting.usual import Usual
from windlass_server.hosting.worker import Worker

FP32, INT64, BYTES = DataType.FP32, DataType.INT64, DataType.BYTES


def signature(inputs, outputs=((FP32, [-1, 2]),)):
    def named(prefix, specs):
        return {
            f"{prefix}{number}": TensorSpec(datatype=type_, shape=shape) for number, (type_, shape) in enumerate(specs)
        }

    return Signature(inputs=named("x", inputs), outputs=named("y", outputs))


@pytest.mark.parametrize(
    ("made", "has_rows"),
    [
        (signature([(FP32, [-1, 4])]), True),
        (signature([(FP32, [-1, 4]), (INT64, [-1])]), True),
        (signature([(FP32, [-1, -1, 3])]), True),
        (signature([(FP32, [1, 4])]), False),
        (signature([(FP32, [])]), False),
        (signature([(FP32, None)]), False),
        (signature([(BYTES, [-1])]), False),
        (signature([(FP32, [-1, 4])], [(FP32, [4])]), False),
        (signature([(FP32, [-1, 4])], [(BYTES, [-1])]), False),
        (signature([(FP32, [-1, 300, 300, 3])]), False),
        (signature([]), False),
    ],
)
def test_there_are_rows_where_everything_has_an_open_first_dimension(made, has_rows):
    assert (batching.has_rows(made) and batching.are_small(made)) == has_rows


def test_rows_to_try_with_differ_and_fit():
    made = signature([(FP32, [-1, 4]), (INT64, [-1, -1])])
    rows = batching.random_rows(made)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in rows.items()} == {
        "x0": (np.float32, (8, 4)), "x1": (np.int64, (8, 1)),
    }  # fmt: skip
    assert len({row.tobytes() for row in rows["x0"]}) == 8
    assert set(rows["x1"].ravel()) == {0, 1}


def rowwise(compute):
    return lambda tensors: {"y": compute(tensors["x"])}


RANDOM = np.random.default_rng(1)


@pytest.mark.parametrize(
    ("run", "independent"),
    [
        (rowwise(lambda x: x * 2), True),
        (rowwise(lambda x: x * (1 + 1e-6 * len(x))), True),  # as kernels differ
        (rowwise(lambda x: np.where(x > 0, np.nan, x)), True),
        (rowwise(lambda x: x.argmax(axis=1)), True),
        (rowwise(lambda x: x - x.mean(axis=0)), False),
        (rowwise(lambda x: x / np.abs(x).max()), False),
        (rowwise(lambda x: x * np.arange(len(x))[:, None]), False),
        (rowwise(lambda x: np.sort(x, axis=0)), False),
        (rowwise(lambda x: x * (1 + 1e-3 * (len(x) > 4))), False),
        (rowwise(lambda x: x + RANDOM.normal()), False),
        (rowwise(lambda x: x.mean(axis=0)), False),
        (rowwise(lambda x: np.concatenate([x, x])), False),
        (rowwise(lambda x: x[:1]), False),
        (rowwise(lambda x: np.float32(x.sum())), False),
        (rowwise(lambda x: (x > x.mean()).astype(np.int32)), False),
    ],
)
def test_rows_are_independent_when_company_and_order_change_no_answer(run, independent):
    rows = batching.split({"x": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)}, 8)
    assert batching.rows_are_independent(run, rows) == independent


@pytest.mark.parametrize(
    ("alone", "batch", "rows", "worth"),
    [
        (0.0001, 0.00012, 8, True), (0.0001, 0.0004, 8, True), (0.0001, 0.00041, 8, False),
        (0.0005, 0.001, 8, True), (0.00051, 0.001, 8, False), (0.1, 0.1, 8, False),
    ],
)  # fmt: skip
def test_it_pays_where_beginning_a_run_is_most_of_it(alone, batch, rows, worth):
    assert batching.pays(alone, batch, rows) == worth


class Clock:
    """Each run of a model takes so long."""

    def __init__(self, alone, per_row):
        self.now = 0.0
        self.runs = []
        self._alone, self._per_row = alone, per_row

    def __call__(self):
        return self.now

    def run(self, tensors):
        self.runs.append(len(tensors["x"]))
        self.now += self._alone + self._per_row * len(tensors["x"])
        return {"y": tensors["x"] * 2}


@pytest.mark.parametrize(("alone", "per_row", "worth"), [(1e-4, 1e-6, True), (1e-5, 1e-4, False), (1e-3, 1e-6, False)])
def test_a_model_is_tried_with_every_size_before_it_is_run_in_batches(alone, per_row, worth):
    clock = Clock(alone, per_row)
    assert batching.are_worth_it(clock.run, {"x": np.eye(8, dtype=np.float32)}, clock=clock) == worth
    if worth:
        assert set(batch_sizes.SIZES) <= set(clock.runs)
    if alone > batching.QUICK_SECONDS:
        assert set(clock.runs) == {1}  # a slow one is not kept longer from answering


def test_too_few_rows_show_nothing():
    with pytest.raises(ValueError, match="3 rows"):
        batching.are_worth_it(Clock(0, 0).run, {"x": np.eye(3, dtype=np.float32)})


def head(**given):
    return {"op": "run", "signature": "s", "outputs": ["y"], "deadline": math.inf, "trial": False, "id": 0, **given}


def one(*shape, dtype=np.float32):
    return {"x": np.zeros((1, *shape), dtype)}


@pytest.mark.parametrize(
    ("request_", "other", "together"),
    [
        ((head(), one(4)), (head(id=2, deadline=1.0), one(4)), True),
        ((head(), one(4)), (head(outputs=["z"]), one(4)), False),
        ((head(), one(4)), (head(signature="t"), one(4)), False),
        ((head(), one(4)), (head(), one(5)), False),
        ((head(), one(4)), (head(), one(4, dtype=np.float64)), False),
        ((head(), one(4)), (head(), {"z": one(4)["x"]}), False),
        ((head(), one(4)), (head(), {"x": np.zeros((2, 4), np.float32)}), False),
        ((head(), one(4)), (head(), {"x": np.zeros((), np.float32)}), False),
        ((head(trial=True), one(4)), (head(trial=True), one(4)), False),
        ((head(signature="u"), one(4)), (head(signature="u"), one(4)), False),
        (({"op": "hello", "id": 1}, {}), ({"op": "hello", "id": 2}, {}), False),
    ],
)
def test_requests_are_run_together_only_if_they_are_alike(request_, other, together):
    companies = [batching.company_of(*each, {"s", "t"}) for each in (request_, other)]
    assert (companies[0] is not None and companies[0] == companies[1]) == together


@pytest.mark.parametrize(
    ("companies", "groups"),
    [
        ([], []),
        ([None, None], [[0], [1]]),
        (["a"], [[0]]),
        (["a", "a"], [[0, 1]]),
        (["a", "b", "a", None, "a", "a", "a"], [[0, 2, 4, 5], [1], [3], [6]]),
        (["a"] * 3, [[0, 1, 2]]),
        (["a"] * 7, [[0, 1, 2, 3, 4, 5, 6]]),
        (["a"] * 11, [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10]]),
        (["a"] * 21, [list(range(16)), [16, 17, 18, 19], [20]]),
        (["a"] * 40, [list(range(32)), list(range(32, 40))]),
    ],
)
def test_groups_nearly_fill_a_power_of_two_and_hold_each_request_once(companies, groups):
    assert batching.grouped(companies) == groups


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (7, 8), (25, 32), (32, 32)])
def test_a_batch_is_filled_up_with_its_last_row(count, size):
    rows = [one(4, dtype=np.float32) for _ in range(count)]
    filled = batching.filled(rows)
    assert len(filled) == size
    assert filled[:count] == rows
    assert all(row is rows[-1] for row in filled[count:])


@pytest.mark.parametrize(
    ("seconds", "batches", "group", "at_once"),
    [
        (None, 1, 1, False), (0.0, 1, 200, True), (5e-6, 1, 40, True), (5e-5, 1, 4, True), (6e-5, 1, 1, False),
        (None, 32, 32, False), (1e-4, 32, 32, False), (1e-5, 32, 32, True),
    ],
)  # fmt: skip
def test_how_many_requests_a_thread_takes(seconds, batches, group, at_once):
    usual = Usual()
    usual.note(seconds)
    assert (usual.group(batches), usual.at_once) == (group, at_once)


class Model:
    """y = 2 x; refuses a row with a seven in it, whoever's it is."""

    signatures = {"s": signature([(FP32, [-1, 2])])}

    def __init__(self, answer=None):
        self.runs = []
        self._answer = answer or (lambda x: 2 * x)

    def run(self, _signature, inputs, outputs):
        assert outputs == ["y0"]
        self.runs.append(len(inputs["x0"]))
        if (inputs["x0"] == 7).any():
            raise ServingError(Code.INVALID_ARGUMENT, "seven is refused")
        return {"y0": self._answer(inputs["x0"])}


class Answers:
    """What a worker answers to a group of requests."""

    def __init__(self, model, *, batched=frozenset({"s"}), max_batch_size=32):
        main, channel = socket.socketpair()
        bounds = {"maxBatchSize": max_batch_size, "maxRequestBytes": 1000, "maxAnswerBytes": 1000}
        argument = {"path": "/", "threads": 1, **bounds, "confinement": {}}
        self._worker = Worker(channel, "none", argument)
        self._worker._model = model
        self._worker._batched = set(batched)
        self._main, self._channel = main, channel

    def __call__(self, *requests):
        self._worker._answer_all(list(requests))
        data = memoryview(self._main.recv(1 << 20))
        found = {}
        while data:
            head_bytes, body = lengths(data, 1000)
            said, tensors = decode(data[PREFIX.size : PREFIX.size + head_bytes + body], head_bytes)
            found[said["id"]] = said.get("code") or tensors["y0"].tolist()
            data = data[PREFIX.size + head_bytes + body :]
        self.close()
        return found

    def close(self):
        self._main.close()
        self._channel.close()


def ask(number, *values, **given):
    return head(id=number, outputs=["y0"], **given), {"x0": np.array([values], np.float32)}


def test_requests_that_came_together_are_run_together_and_get_their_own_answers():
    model = Model()
    assert Answers(model)(*[ask(n, n, n + 1) for n in range(6)]) == {n: [[2 * n, 2 * n + 2]] for n in range(6)}
    assert model.runs == [8]


@pytest.mark.parametrize(("most", "runs"), [(1, [1] * 6), (2, [2] * 3), (5, [4, 2])])
def test_no_more_are_run_together_than_the_setting_says(most, runs):
    model = Model()
    answers = Answers(model, max_batch_size=most)(*[ask(n, n, n + 1) for n in range(6)])
    assert answers == {n: [[2 * n, 2 * n + 2]] for n in range(6)}
    assert model.runs == runs


def test_a_bad_request_fails_alone():
    model = Model()
    bad = [ask(1, 7, 0), (head(id=2, outputs=["y0"]), {"x0": np.zeros((1, 3), np.float32)}), ask(3, 1, 1, deadline=0.0)]
    assert Answers(model)(ask(0, 1, 2), *bad, ask(4, 3, 4)) == {
        0: [[2, 4]], 1: "INVALID_ARGUMENT", 2: "INVALID_ARGUMENT", 3: "DEADLINE_EXCEEDED", 4: [[6, 8]],
    }  # fmt: skip


@pytest.mark.parametrize("answer", [lambda x: x[:1] * 2, lambda _: np.float32(2), lambda _: 1 / 0])
def test_an_answer_that_is_no_batch_is_asked_for_one_by_one(answer):
    model = Model(lambda x: 2 * x if len(x) == 1 else answer(x))
    assert Answers(model)(ask(0, 1, 2), ask(1, 3, 4)) == {0: [[2, 4]], 1: [[6, 8]]}
    assert model.runs == [2, 1, 1]


def test_what_was_not_shown_to_be_independent_is_never_run_together():
    model = Model(lambda x: x - x.mean(axis=0))
    assert Answers(model, batched=())(ask(0, 1, 2), ask(1, 3, 4)) == {0: [[0, 0]], 1: [[0, 0]]}
    assert model.runs == [1, 1]
