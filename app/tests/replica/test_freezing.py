"""Constants in place of variables: the decision, and a worker's way with it."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from test_batching import Answers, Model, signature

from windlass_contract.manifest import DataType
from windlass_server.hosting.freezing import is_better, may_be_tried

FP32 = DataType.FP32

ROWS = {"x": np.random.default_rng(7).normal(size=(8, 4)).astype(np.float32)}


class Clock:
    """Runs of two models, the one and the frozen; each takes its time."""

    def __init__(self, one=10.0, frozen=5.0, answer=lambda x: 2 * x, frozen_answer=lambda x: 2 * x):
        self.now = 0.0
        self.frozen_runs = []
        self._seconds, self._answers = (one, frozen), (answer, frozen_answer)

    def __call__(self):
        return self.now

    def one(self, tensors):
        return self._run(0, tensors)

    def frozen(self, tensors):
        self.frozen_runs.append(len(tensors["x"]))
        return self._run(1, tensors)

    def _run(self, which, tensors):
        self.now += self._seconds[which]
        return {"y": self._answers[which](tensors["x"])}


@pytest.mark.parametrize(
    ("clock", "better"),
    [
        pytest.param(Clock(), True, id="the same answers in half the time"),
        pytest.param(Clock(frozen=9.0), True, id="in nine tenths"),
        pytest.param(Clock(frozen=9.1), False, id="in hardly less"),
        pytest.param(Clock(frozen_answer=lambda x: 2 * x * (1 + 1e-6)), True, id="another order of adding up"),
        pytest.param(Clock(frozen_answer=lambda x: 2 * x + 1e-3), False, id="other answers"),
        pytest.param(
            Clock(frozen_answer=lambda x: 2 * x if len(x) == 1 else 3 * x), False, id="other answers to several rows"
        ),
        pytest.param(Clock(frozen_answer=lambda x: (2 * x).astype(np.float64)), False, id="another type"),
        pytest.param(Clock(frozen_answer=lambda x: (2 * x)[:, :2]), False, id="another shape"),
        pytest.param(Clock(frozen_answer=lambda x: np.full_like(x, np.nan)), False, id="no numbers"),
    ],
)
def test_a_frozen_model_is_better_if_it_is_quicker_and_answers_the_same(clock, better):
    assert is_better(clock.one, clock.frozen, ROWS, 32, clock) is better


@pytest.mark.parametrize(("most", "together"), [(1, 2), (2, 2), (5, 5), (32, 8)])
def test_no_more_rows_are_run_together_than_are_allowed_but_two(most, together):
    clock = Clock(one=0.02, frozen=0.01)
    assert is_better(clock.one, clock.frozen, ROWS, most, clock)
    assert clock.frozen_runs == [1] * 8 + [together]


def test_a_slow_model_is_tried_with_few_rows_and_fewer_show_nothing():
    clock = Clock()
    assert is_better(clock.one, clock.frozen, ROWS, 1, clock)
    assert clock.frozen_runs == [1] * 4 + [2]
    with pytest.raises(ValueError, match="show nothing"):
        is_better(clock.one, clock.frozen, {"x": ROWS["x"][:3]}, 32, clock)


@pytest.mark.parametrize(
    ("shape", "samples", "tried"),
    [
        ([-1, 4], False, True),
        ([-1, -1, 4], False, False),
        ([-1, -1, 4], True, True),
        ([1, 4], True, False),
        (None, True, False),
    ],
)
def test_it_is_tried_with_samples_or_random_rows_of_a_known_shape(shape, samples, tried):
    made = signature([(FP32, shape)])
    assert may_be_tried(made, {"x0": ROWS["x"]} if samples else {}) is tried


class Trial:
    """A worker that is asked about a model's only signature, and told what to make of it."""

    def __init__(self, frozen):
        self.model = Model()
        self.model.frozen = frozen
        self._answers = Answers(self.model, batched=())
        self.worker = self._answers._worker

    def __call__(self, *, adopt):
        with contextlib.closing(self._answers):
            self.worker._freeze({"served": ["s"]}, {})
            answer, _ = self.worker._try_frozen({"signature": "s", "rows": 4}, {})
            self.worker._adopt({"frozen": adopt}, {})
            return answer


def test_a_worker_runs_the_frozen_model_once_it_is_told_to():
    frozen = Model()
    trial = Trial(lambda served: frozen if served == ["s"] else None)
    trial(adopt=True)
    assert frozen.runs[:1] == [1]
    assert trial.worker._loaded() is frozen
    assert trial.worker._frozen is None


def test_a_worker_keeps_the_model_that_it_has_where_the_frozen_one_is_no_better():
    trial = Trial(lambda _: Model(lambda x: 3 * x))
    assert trial(adopt=False) == {"better": False}
    assert trial.worker._loaded() is trial.model
    assert trial.worker._frozen is None


def test_a_worker_says_so_where_a_model_cant_be_frozen():
    def refuse(_):
        raise RuntimeError("no")

    trial = Trial(refuse)
    with pytest.raises(RuntimeError):
        trial(adopt=False)


def test_a_frozen_model_that_refuses_the_trial_is_no_better():
    def refuse(_):
        raise RuntimeError("no")

    assert Trial(lambda _: Model(refuse))(adopt=False) == {"better": False}
