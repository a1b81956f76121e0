"""Requests of many rows in slices: the decisions, and a worker's way with them."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest
from test_batching import Answers, Model, head, rowwise, signature

from windlass_contract.manifest import DataType
from windlass_server.hosting import slicing
from windlass_server.runtimes import litert_runtime
from windlass_testing import models

FP32, INT64 = DataType.FP32, DataType.INT64
ROWS = {"x": np.random.default_rng(5).normal(size=(20, 4)).astype(np.float32)}


class Clock:
    """A run takes so long at its beginning and for each row; one of more than `cached` rows `slower` times that."""

    def __init__(self, begin=0.0, cached=8, slower=1.0, answer=lambda x: 2 * x):
        self.now = 0.0
        self.runs = []
        self._begin, self._cached, self._slower, self._answer = begin, cached, slower, answer

    def __call__(self):
        return self.now

    def run(self, tensors):
        count = len(tensors["x"])
        self.runs.append(count)
        self.now += self._begin + count * (self._slower if count > self._cached else 1.0)
        return {"y": self._answer(tensors["x"])}


@pytest.mark.parametrize(
    ("tensors", "size", "sliced"),
    [
        ({"x": np.zeros((16, 4))}, 8, True),
        ({"x": np.zeros((15, 4))}, 8, False),
        ({"x": np.zeros((16, 4)), "z": np.zeros(16)}, 8, True),
        ({"x": np.zeros((16, 4)), "z": np.zeros(1)}, 8, False),
        ({"x": np.zeros((16, 4)), "z": np.zeros(())}, 8, False),
        ({"x": np.zeros((4000, 4))}, 0, False),
        ({}, 8, False),
    ],
)
def test_a_request_with_rows_for_two_slices_is_run_in_them(tensors, size, sliced):
    assert slicing.is_sliced(tensors, size) == sliced


def test_slices_are_answered_in_their_order_and_together():
    clock = Clock()
    answer = slicing.run_in_slices(clock.run, ROWS, 8)
    np.testing.assert_array_equal(answer["y"], 2 * ROWS["x"])
    assert clock.runs == [8, 8, 4]


def test_an_answer_without_a_row_for_each_is_none():
    with pytest.raises(ValueError, match="8 rows were answered with 1"):
        slicing.run_in_slices(rowwise(lambda x: x[:1]), ROWS, 8)


def test_what_is_to_be_seen_to_before_each_slice_is():
    def before(_):
        if len(clock.runs) == 2:
            raise TimeoutError

    clock = Clock()
    with pytest.raises(TimeoutError):
        slicing.run_in_slices(clock.run, ROWS, 8, before)
    assert clock.runs == [8, 8]


@pytest.mark.parametrize(
    ("clock", "as_good"),
    [
        (Clock(slower=1.3), True),
        (Clock(), True),
        (Clock(begin=0.4), True),  # 21.2 for 20.4
        (Clock(begin=1.0), False),  # 23 for 21
        (Clock(slower=1.3, answer=lambda x: x - x.mean(axis=0)), False),
        (Clock(slower=1.3, answer=lambda x: x / np.abs(x).max()), False),
        (Clock(slower=1.3, answer=lambda x: (x - x.min()) / (x.max() - x.min())), False),
        (Clock(slower=1.3, answer=lambda x: x * len(x)), False),
        (Clock(slower=1.3, answer=lambda x: x.sum(axis=0)), False),
        (Clock(slower=1.3, answer=lambda x: x[:1]), False),
    ],
)
def test_slices_are_as_good_where_they_answer_the_same_and_take_no_longer(clock, as_good):
    assert slicing.are_as_good(clock.run, ROWS, 8, clock) == as_good


@pytest.mark.parametrize("seed", range(8))
def test_what_depends_on_the_largest_of_a_few_samples_is_found_out(seed):
    samples = {"x": np.random.default_rng(seed).normal(size=(4, 64)).astype(np.float32)}
    rows = slicing.rows_to_try(signature([(FP32, [-1, 64])]), samples, 32)
    clock = Clock(slower=1.3, answer=lambda x: x / np.abs(x).max())
    assert not slicing.are_as_good(clock.run, rows, 8, clock)


@pytest.mark.parametrize(
    ("shape", "most", "size", "max_bytes", "count"),
    [
        ([-1, 4], 32, 8, 1000, 32), ([-1, 4], 4096, 8, 1000, 32), ([-1, 4], 16, 8, 1000, 16), ([-1, 4], 15, 8, 1000, 0),
        ([-1, 4], 32, 0, 1000, 0), ([-1, 4], 32, 32, 1000, 0), ([-1, 4], 32, 8, 511, 0), ([-1], 32, 8, 128, 32),
    ],
)  # fmt: skip
def test_as_many_rows_are_tried_as_show_something_and_fit(shape, most, size, max_bytes, count):
    assert slicing.tried_rows(signature([(FP32, shape)]), most, size, max_bytes) == count


def test_the_rows_that_are_tried_are_samples_or_random_ones():
    made = signature([(FP32, [-1, 4]), (INT64, [-1])])
    random = slicing.rows_to_try(made, {}, 32)
    assert {name: tensor.shape for name, tensor in random.items()} == {"x0": (32, 4), "x1": (32,)}
    samples = {"x0": ROWS["x"][:5], "x1": np.arange(5)}
    rows = slicing.rows_to_try(made, samples, 32)
    np.testing.assert_array_equal(rows["x0"], samples["x0"][rows["x1"]])


def many(count, **given):
    return head(id=1, outputs=["y0"], **given), {"x0": np.ones((count, 2), np.float32)}


class Sliced(Answers):
    def __init__(self, model):
        super().__init__(model, batched=())
        self._worker._slice_rows, self._worker._sliced = 8, {"s"}


def test_a_worker_runs_a_large_request_in_slices_and_a_small_one_as_it_is():
    model = Model()
    assert Sliced(model)(many(18)) == {1: [[2, 2]] * 18}
    assert model.runs == [8, 8, 2]
    model = Model()
    assert Sliced(model)(many(15)) == {1: [[2, 2]] * 15}
    assert model.runs == [15]


def test_where_slices_lose_rows_the_whole_is_run_now_and_later():
    model = Model(lambda x: x[: max(len(x) - 1, 7)])
    answers = Sliced(model)
    assert len(answers(many(20))[1]) == 19
    assert model.runs == [8, 20]
    assert answers._worker._sliced == set()


@pytest.mark.parametrize(("count", "slices"), [(16, [8, 8]), (21, [8, 8, 5])])
def test_a_litert_model_answers_the_same_in_slices(tmp_path, count, slices):
    model = litert_runtime.load(models.affine_tflite(tmp_path, "m", 1, 2.0, 1.0))
    runs = []

    def run(rows):
        runs.append(len(rows["x"]))
        return model.run("serving_default", rows, ["y"])

    rows = {"x": np.arange(count, dtype=np.float32)[:, None]}
    np.testing.assert_allclose(slicing.run_in_slices(run, rows, 8)["y"], 2 * rows["x"] + 1)
    assert runs == slices
    assert slicing.are_as_good(run, rows, 8, lambda: 1.0)


def test_a_worker_begins_no_slice_after_the_request_s_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    model = Model(lambda x: now.__setitem__(0, now[0] + 1) or 2 * x)
    assert Sliced(model)(many(32, deadline=1.5)) == {1: "DEADLINE_EXCEEDED"}
    assert model.runs == [8, 8]


class Trial:
    """What a worker finds out about a signature."""

    def __init__(self, *, may_slice=True, slice_rows=8):
        self.model = Model()
        self.model.may_batch = lambda _: False
        self.model.may_slice = lambda _: may_slice
        self._answers = Answers(self.model, batched=())
        self.worker = self._answers._worker
        self.worker._slice_rows = slice_rows

    def __call__(self, rows):
        with contextlib.closing(self._answers):
            return self.worker._try_batches({"signature": "s", "rows": rows}, {})[0]


@pytest.mark.parametrize(
    ("given", "rows"),
    [({}, 1), ({}, 15), ({"may_slice": False}, 32), ({"slice_rows": 0}, 32), ({"slice_rows": 32}, 32)],
)
def test_slices_are_not_even_tried_where_they_may_not_be(given, rows):
    trial = Trial(**given)
    assert trial(rows) == {"batched": False, "sliced": False}
    assert trial.model.runs == []


def test_slices_are_tried_with_no_more_rows_than_the_version_was_warmed_up_with():
    trial = Trial()
    assert trial(16)["batched"] is False
    assert set(trial.model.runs) == {16, 8, 1}


def test_a_model_that_refuses_the_trial_serves_as_it_is():
    trial = Trial()

    def refuse(*_):
        raise RuntimeError("no")

    trial.model.run = refuse
    assert trial(32) == {"batched": False, "sliced": False}
