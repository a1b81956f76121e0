"""Which output of a model holds the scores of classes, and which classes score highest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from windlass_contract.manifest import DataType
from windlass_server.tensors import NUMPY_TYPE, Tensor

_SUM_TOLERANCE = 1e-2
_FEW = 64
_BFLOAT16 = NUMPY_TYPE[DataType.BF16]


def find_scores(classes: Sequence[str], outputs: Mapping[str, Tensor]) -> Tensor | None:
    """The output that looks like class scores, as floats of shape [rows, classes]; None when none does.

    With names of `classes`: the only float output with one score per name. Without: the only output, when its rows are
    probabilities.
    """
    candidates = [scores for tensor in outputs.values() if (scores := _as_rows(tensor, len(classes))) is not None]
    if len(candidates) != 1:
        return None
    if not classes and (len(outputs) != 1 or not _probabilities(candidates[0])):
        return None
    return candidates[0]


def _as_rows(tensor: Tensor, classes: int) -> Tensor | None:
    if tensor.dtype.kind != "f" and tensor.dtype != _BFLOAT16:
        return None
    rows = tensor.reshape(1, -1) if tensor.ndim == 1 and tensor.shape[0] == classes else tensor
    if rows.ndim != 2 or rows.shape[1] != (classes or rows.shape[1]) or rows.shape[1] < 2:
        return None
    return rows


def _probabilities(rows: Tensor) -> bool:
    if rows.size <= _FEW:  # numpy takes longer to begin than Python for all of them
        return all(
            min(row) >= 0 and max(row) <= 1 and abs(math.fsum(row) - 1) <= _SUM_TOLERANCE for row in rows.tolist()
        )
    if rows.dtype == _BFLOAT16:
        rows = rows.astype(np.float32)
    if not (rows.min() >= 0 and rows.max() <= 1):  # nor are they where one is NaN
        return False
    sums = rows.sum(axis=1, dtype=np.float64).tolist()
    return all(abs(each - 1) <= _SUM_TOLERANCE for each in sums)


def first_row(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of the first of a batch's rows, for `find_scores`."""
    return {name: tensor[:1] if tensor.ndim == 2 else tensor for name, tensor in outputs.items()}


def top_classes(classes: Sequence[str], scores: Tensor, count: int) -> list[dict[str, Any]]:
    """The classes with the highest of `scores` (shape [classes]), highest first; NaN comes last."""
    if scores.dtype == _BFLOAT16:
        scores = scores.astype(np.float32)
    return [
        {
            "class": classes[index] if index < len(classes) else str(index),
            "index": index,
            # The shortest text of the model's own precision: float32 0.9 is 0.9, not 0.8999999761581421.
            "score": float(str(scores[index])),
        }
        for index in _highest(scores, count)
    ]


def _highest(scores: Tensor, count: int) -> list[int]:
    """Where the highest are; of equal ones the first comes first. Sorts no more than it has to: of a thousand classes
    five are asked for, for each image."""
    if count == 1:
        index = int(scores.argmax())
        if not math.isnan(scores[index]):
            return [index]
    ranks = -scores
    if count < len(ranks):
        last = np.partition(ranks, count - 1)[count - 1]
        if not math.isnan(last):
            among = np.flatnonzero(ranks <= last)
            found: list[int] = among[np.argsort(ranks[among], kind="stable")[:count]].tolist()
            return found
    whole: list[int] = np.argsort(ranks, kind="stable")[:count].tolist()  # which has NaN last
    return whole
