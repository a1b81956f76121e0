"""A request of many rows, run a few rows at a time. Pure.

What such a run works on stays in the processor's caches, also while another one runs beside it. Only of models without
branches, loops and changing state, whose answers in slices and to single rows equal, as `batching` compares them, those
of one run, and whose slices take no longer. That is tried when the version is loaded, with no more rows than the
largest of its warm-up batch sizes: that many it was packed, and its memory measured, with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from windlass_contract.manifest import Signature
from windlass_server.hosting.batching import Run, Tensors, random_rows, same_answers
from windlass_server.tensors import NUMPY_TYPE, Tensor, element_count

LEAST_SLICES = 2
"""Whole ones; below that it isn't worth the trouble."""
NO_LONGER = 1.05
"""Of the time that one run takes: the rest is noise."""
TRIED_SLICES = 4
"""More show nothing new."""
_TRIED_ALONE = 8
"""Rows that are run by themselves, too: what depends on all of a batch, as its largest number does, may be the same in
each slice."""
_SEED = 20261130
_TIMES = 2


def row_count(tensors: Mapping[str, Tensor]) -> int:
    """Rows of all tensors alike; 0 where they aren't alike."""
    counts = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors.values()}
    return counts.pop() if len(counts) == 1 else 0


def is_sliced(tensors: Mapping[str, Tensor], size: int) -> bool:
    """Whether there are rows enough for slices of `size`; 0: never."""
    return 0 < size * LEAST_SLICES <= row_count(tensors)


class RowsLostError(ValueError):
    """An answer hasn't a row for each of its request's."""


def run_in_slices(
    run: Run, tensors: Mapping[str, Tensor], size: int, before_each: Callable[[int], None] = lambda _: None
) -> Tensors:
    """The answers to `size` rows at a time, together. `before_each` is told how many rows were run. Raises what it and
    `run` raise, and `RowsLostError`."""
    count = row_count(tensors)
    answers = []
    for start in range(0, count, size):
        before_each(start)
        piece = {name: tensor[start : start + size] for name, tensor in tensors.items()}
        answer = run(piece)
        if row_count(answer) != row_count(piece):
            raise RowsLostError(f"{row_count(piece)} rows were answered with {row_count(answer)}")
        answers.append(answer)
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def tried_rows(signature: Signature, most: int, size: int, max_bytes: int) -> int:
    """How many rows to try slices of `size` with, at most `most`; 0: it can't be tried, or isn't worth it."""
    count = min(most, TRIED_SLICES * size)
    row = sum(
        element_count([max(each, 1) for each in (spec.shape or ())[1:]]) * NUMPY_TYPE[spec.datatype].itemsize
        for spec in signature.inputs.values()
    )
    return count if 0 < size * LEAST_SLICES <= count and count * row <= max_bytes else 0


def rows_to_try(signature: Signature, samples: Mapping[str, Tensor], count: int) -> Tensors:
    """So many rows: of the `samples`, drawn at random, or random ones."""
    if not samples:
        return random_rows(signature, count)
    which = np.random.default_rng(_SEED).integers(0, row_count(samples), count)
    return {name: tensor[which] for name, tensor in samples.items()}


def are_as_good(
    run: Run, rows: Mapping[str, Tensor], size: int, clock: Callable[[], float] = time.process_time
) -> bool:
    """Whether slices of `size` rows, and single ones, are answered as all `rows` in one run are, and slices take no
    longer. `clock`: processor time, since whoever loads a version beside another is stopped now and then. Raises what
    `run` raises."""
    whole_rows = dict(rows)
    one_run, slices = Timed(run, clock), Timed(lambda tensors: run_in_slices(run, tensors, size), clock)
    try:
        whole = one_run(whole_rows)
        if not same_answers(whole, slices(whole_rows)):
            return False
        few = {name: tensor[:_TRIED_ALONE] for name, tensor in rows.items()}
        if not same_answers(
            {name: tensor[:_TRIED_ALONE] for name, tensor in whole.items()}, run_in_slices(run, few, 1)
        ):
            return False
    except RowsLostError:
        return False
    for _ in range(_TIMES):
        one_run(whole_rows)
        slices(whole_rows)
    return slices.best <= NO_LONGER * one_run.best


class Timed:
    """A run that is timed; its first time is for what it has to make first."""

    def __init__(self, run: Run, clock: Callable[[], float]) -> None:
        self._run = run
        self._clock = clock
        self._times: list[float] = []

    def __call__(self, tensors: Tensors) -> Tensors:
        begun = self._clock()
        answer = self._run(tensors)
        self._times.append(self._clock() - begun)
        return answer

    @property
    def best(self) -> float:
        """Seconds."""
        return min(self._times[1:])
