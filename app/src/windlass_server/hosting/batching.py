"""Requests of one row each that came together, run as one: which may be, and which are. Pure.

A batch is made of what is there, so nobody waits for it. Only of models without branches, loops and changing state,
whose rows are shown to be independent when they are loaded: the answers to several rows in one equal, within `RTOL` and
`ATOL`, those to each alone, in any company and order. And only where it pays: a run takes so little time that beginning
it is most of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from windlass_contract.manifest import DataType, Signature, TensorSpec
from windlass_server.hosting.batch_sizes import MOST_ROWS, SIZES, largest_size
from windlass_server.tensors import NUMPY_TYPE, Tensor, element_count

TRIED_ROWS = 8
"""With which a model is tried when it is loaded."""
LEAST_ROWS = 4
"""Fewer of a model's own samples show too little."""
RTOL, ATOL = 1e-4, 1e-5
"""Between a row's answer in a batch and alone: kernels add up in another order for another number of rows. Of integers
and booleans: none."""
QUICK_SECONDS = 0.0005
"""A single run that takes longer is better off on a processor of its own."""
WORTH = 0.5
"""A batch has to take less than this share of what its rows take one by one."""
_LEAST_FILLED = 0.75
"""Of a batch, by requests."""
_MOST_ELEMENTS = 64 * 1024
"""Of a row; joining larger ones takes longer than it spares."""
_SEED = 20261129
_TIMES = 10

Tensors = dict[str, Tensor]
Run = Callable[[Tensors], Tensors]


def has_rows(signature: Signature) -> bool:
    """Whether there are rows: the first dimension of everything is open, and nothing is text."""
    return bool(signature.inputs) and all(
        spec.datatype is not DataType.BYTES and spec.shape is not None and spec.shape[:1] == [-1]
        for spec in _specs(signature)
    )


def are_small(signature: Signature) -> bool:
    """Whether rows are worth joining."""
    return all(
        element_count([max(size, 1) for size in spec.shape or ()]) <= _MOST_ELEMENTS for spec in _specs(signature)
    )


def _specs(signature: Signature) -> list[TensorSpec]:
    return [*signature.inputs.values(), *signature.outputs.values()]


def random_rows(signature: Signature, count: int = TRIED_ROWS) -> Tensors:
    """So many rows to try a model with, each another: normally distributed numbers; of whole ones, only 0 and 1, which
    mean something to most models."""
    random = np.random.default_rng(_SEED)
    rows = {}
    for name, spec in signature.inputs.items():
        shape = [count, *(max(size, 1) for size in (spec.shape or ())[1:])]
        floats = NUMPY_TYPE[spec.datatype].kind not in "biu"
        values = random.normal(size=shape) if floats else random.integers(0, 2, size=shape)
        rows[name] = values.astype(NUMPY_TYPE[spec.datatype])
    return rows


def split(tensors: Mapping[str, Tensor], count: int) -> list[Tensors]:
    """One by one, as single requests have them. Raises `ValueError` when there aren't `count` rows."""
    for name, tensor in tensors.items():
        if tensor.ndim == 0 or tensor.shape[0] != count:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, not {count} rows")
    return [{name: tensor[index : index + 1] for name, tensor in tensors.items()} for index in range(count)]


def join(rows: Sequence[Mapping[str, Tensor]]) -> Tensors:
    """Single requests' tensors in one."""
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def rows_are_independent(run: Run, rows: Sequence[Tensors]) -> bool:
    """Runs each row alone, and in several companies, and compares."""
    alone = [run(row) for row in rows]
    last = len(rows) - 1
    companies = [list(range(len(rows))), list(range(last, -1, -1)), [0, last], [last, 0], [0, 0, *range(1, last)]]
    for company in companies:
        try:
            answers = split(run(join([rows[index] for index in company])), len(company))
        except ValueError:
            return False
        if not all(same_answers(answer, alone[index]) for answer, index in zip(answers, company, strict=True)):
            return False
    return True


def same_answers(one: Tensors, other: Tensors) -> bool:
    """Within `RTOL` and `ATOL`."""
    return one.keys() == other.keys() and all(_same_tensor(one[name], other[name]) for name in one)


def _same_tensor(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind in "biu":
        return bool(np.array_equal(one, other))
    wide = (one.astype(np.float64), other.astype(np.float64))
    return bool(np.allclose(*wide, rtol=RTOL, atol=ATOL, equal_nan=True))


def are_worth_it(
    run: Run, rows: Tensors, most: int = MOST_ROWS, clock: Callable[[], float] = time.perf_counter
) -> bool:
    """Whether requests are to be run together, `most` at a time: their rows are independent, and it pays. Raises what
    `run` raises, and `ValueError` for tensors that aren't rows. Afterwards every size of a batch has been run."""
    ones = split(rows, min(tensor.shape[0] if tensor.ndim else 0 for tensor in rows.values()))
    if len(ones) < LEAST_ROWS:
        raise ValueError(f"{len(ones)} rows show nothing")
    alone = _best(lambda: run(ones[0]), clock)
    if alone > QUICK_SECONDS or not rows_are_independent(run, ones):
        return False
    for size in (each for each in SIZES if each <= most):
        run(join([ones[index % len(ones)] for index in range(size)]))
    batch = join([ones[index % len(ones)] for index in range(TRIED_ROWS)])
    return pays(alone, _best(lambda: run(batch), clock), TRIED_ROWS)


def _best(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds, of several times the least: others use the processor too."""
    best = math.inf
    for _ in range(_TIMES):
        begun = clock()
        work()
        best = min(best, clock() - begun)
    return best


def pays(alone: float, batch: float, rows: int) -> bool:
    """Whether batches are quicker. Seconds of a single run, and of one with so many `rows`."""
    return alone <= QUICK_SECONDS and batch <= WORTH * rows * alone


def company_of(head: Mapping[str, Any], tensors: Mapping[str, Tensor], batched: Collection[str]) -> Hashable | None:
    """What requests have in common that may be run together; None: this one is run alone. `batched`: signatures whose
    requests are."""
    if head.get("op") != "run" or head.get("trial") or head.get("signature") not in batched:
        return None
    shapes = []
    for name, tensor in sorted(tensors.items()):
        if tensor.ndim == 0 or tensor.shape[0] != 1:
            return None
        shapes.append((name, tensor.dtype.str, tensor.shape))
    return head["signature"], tuple(head["outputs"] or ()), tuple(shapes)


def grouped(companies: Sequence[Hashable | None], most: int = MOST_ROWS) -> list[list[int]]:
    """Which requests are run together, by index, in the order in which they came, at most `most` in a group: as many as
    one of `SIZES`, or nearly, see `filled`."""
    waiting: dict[Hashable, list[int]] = {}
    groups: list[list[int]] = []
    for index, company in enumerate(companies):
        if company is None:
            groups.append([index])
        else:
            waiting.setdefault(company, []).append(index)
    for indexes in waiting.values():
        while indexes:
            size = _group_size(min(len(indexes), most))
            groups.append(indexes[:size])
            indexes = indexes[size:]  # noqa: PLW2901 - what is left of it
    return sorted(groups)


def _group_size(count: int) -> int:
    """How many of so many requests one run takes: all, if they fill most of a batch; else beginning another run costs
    less than what would be run for nobody."""
    return count if count >= _LEAST_FILLED * _next_size(count) else largest_size(count)


def filled(rows: Sequence[Tensors]) -> list[Tensors]:
    """As many as the next of `SIZES`, so that a model meets few of them: the last one repeated."""
    return [*rows, *[rows[-1]] * (_next_size(len(rows)) - len(rows))]


def _next_size(count: int) -> int:
    return min(size for size in SIZES if size >= count)
