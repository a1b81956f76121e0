"""Answers as JSON: functions of output tensors and plain values. Slow for large outputs, as `document` is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from windlass_server.tensors import Tensor

from .class_scores import find_scores, top_classes
from .oip_tensors import to_json
from .tfs_examples import format_classes, format_values
from .tfs_predict import format_outputs

Outputs = Mapping[str, Tensor]


def predicted(outputs: Outputs, *, in_rows: bool, flat: bool) -> bytes:
    """TensorFlow Serving's answer to `:predict`."""
    return format_outputs(outputs, in_rows=in_rows, flat=flat)


def classified(outputs: Outputs, *, count: int) -> bytes:
    """Its answer to `:classify` of so many examples."""
    return format_classes(outputs, count)


def regressed(outputs: Outputs, *, count: int) -> bytes:
    """Its answer to `:regress` of so many examples."""
    return format_values(outputs, count)


def flat_data(outputs: Outputs) -> bytes:
    """The Open Inference Protocol's `data` of one output."""
    ((name, tensor),) = outputs.items()
    return to_json(tensor, name)


def for_people(
    outputs: Outputs, *, classes: Sequence[str], top: int, single: bool, in_rows: bool = False, flat: bool = False
) -> bytes:
    """The fields of `POST /predict`'s answer: the best classes of each row (`single`: of the only one) where an output
    holds scores of classes, else TensorFlow Serving's."""
    scores = find_scores(classes, outputs)
    if scores is None:
        return format_outputs(outputs, in_rows=in_rows, flat=flat)[1:-1]
    if single:
        return b'"predictions":' + orjson.dumps(top_classes(classes, scores[0], top))
    return b'"predictions":' + orjson.dumps([top_classes(classes, row, top) for row in scores])


WRITERS = {writer.__name__: writer for writer in (predicted, classified, regressed, flat_data, for_people)}
"""By name, for who has them written elsewhere."""
