"""The short way of reading rows of numbers says the same as the long one, or nothing."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windlass_contract.manifest import DataType, Signature, TensorSpec
from windlass_server.api.document import Document
from windlass_server.api.json_text import parse
from windlass_server.api.limits import Limits
from windlass_server.api.plain_rows import MOST_BYTES, read_plain_rows, tensor_of_plain_rows
from windlass_server.api.tfs_predict import predict_inputs
from windlass_server.errors import ServingError

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([3.5e38, -1e39, 0])
)
ODD = st.sampled_from([None, True, "1", [1.0], {}, []])
ROWS = st.lists(st.lists(NUMBERS, max_size=3), max_size=3)


def signature(datatype: str = "FP32", shape: list[int] | None = None, *, inputs: int = 1) -> Signature:
    spec = TensorSpec(datatype=DataType(datatype), shape=[-1, -1] if shape is None else shape)
    return Signature(inputs={f"x{number}": spec for number in range(inputs)}, outputs={"y": spec})


def outcome(read):
    try:
        inputs = read()
    except ServingError as error:
        return error.code, error.message
    tensors = {name: (tensor.dtype, tensor.shape, tensor.tobytes()) for name, tensor in inputs[0].items()}
    return tensors, inputs[1], inputs[2]


@given(
    st.one_of(ROWS, st.lists(st.lists(st.one_of(NUMBERS, ODD), max_size=3), max_size=3), st.lists(NUMBERS, max_size=3)),
    st.sampled_from(["FP32", "FP64", "INT32", "BOOL", "BYTES"]),
    st.sampled_from([[-1, -1], [-1, 2], [-1], [1, 2], [-1, 1]]),
)
@example([[1, 2], [3]], "FP32", [-1, 2])
@example([[[1.0]], [[2.0]]], "FP32", [-1, 1])
def test_it_reads_what_the_long_way_reads(rows, datatype, shape):
    asked = signature(datatype, shape)
    body = json.dumps({"instances": rows}).encode()

    def short():
        document = Document(body, Limits())
        return document.inputs(document.tfs_signature(), asked)

    def long():
        return predict_inputs("serving_default", asked, parse(body, Limits(), trailing=True))

    assert outcome(short) == outcome(long)


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b'{"instances": [[1.5, -2e-3], [3, 4]]}', [[1.5, -0.002], [3, 4]]),
        (b' {\n"instances"\t:[ [1] ] }', [[1]]),
        (b'{"instances": [[1]]}\n', None),
        (b'{"instances": 1}', None),
        (b'{"instances": [[1]], [[2]]}', None),
        (b'{"instances": [1, 2]}', [1, 2]),
        (b'{"instances": []}', []),
        (b'{"instances": [[1, 2]}', None),
        (b'{"instances": [[+1]]}', None),
        (b'{"instances": [[NaN]]}', None),
        (b'{"instances": [[true]]}', None),
        (b'{"instances": [["1"]]}', None),
        (b'{"instances": [[1]], "signature_name": "a"}', None),
        (b'{"signature_name": "a", "instances": [[1]]}', None),
        (b'{"inputs": [[1]]}', None),
        (b'{"instances": [[1]]} x', None),
        (b'{"instances": [[1]]}}', None),
        (b"", None),
        (b'{"instances": [' + b" " * MOST_BYTES + b"]}", None),
    ],
)
def test_it_takes_nothing_but_rows(body, rows):
    assert read_plain_rows(body, Limits()) == rows


@pytest.mark.parametrize(
    ("rows", "asked", "read"),
    [
        ([[1, 2.5]], signature(), np.array([[1, 2.5]], np.float32)),
        ([[sys.float_info.max]], signature("FP64"), np.array([[sys.float_info.max]])),
        ([[3.5e38]], signature(), None),
        ([[1], [2, 3]], signature(), None),
        ([[1], 2], signature(), None),
        ([1, 2], signature(), None),
        ([[[1]]], signature(), None),
        ([[]], signature(), None),
        ([], signature(), None),
        ([[1]], signature("INT32"), None),
        ([[1]], signature("FP16"), None),
        ([[1]], signature(inputs=2), None),
        ([[1]], signature(shape=[-1, 2]), None),
        ([[1]], signature(shape=[-1]), None),
    ],
)
def test_it_converts_nothing_that_has_to_be_looked_at(rows, asked, read):
    tensors = tensor_of_plain_rows(rows, asked)
    if read is None:
        assert tensors is None
    else:
        np.testing.assert_array_equal(tensors["x0"], read)
        assert tensors["x0"].dtype == read.dtype


@pytest.mark.parametrize(
    ("body", "limits"),
    [
        (b'{"instances": [[1, 2]]}', Limits(max_json_bytes=20)),
        (b'{"instances": [[1, 2]]}', Limits(max_json_elements=20)),
        (b'{"instances": [[[1]]]}', Limits(max_json_depth=3)),
    ],
)
def test_what_may_be_beyond_a_bound_is_read_the_long_way_which_says_so(body, limits):
    assert read_plain_rows(body, limits) is None
    assert read_plain_rows(body, Limits()) is not None


def test_a_body_of_brackets_takes_no_longer_than_its_length():
    assert read_plain_rows(b'{"instances": ' + b"[ " * 8000, Limits()) is None
    assert read_plain_rows(b'{"instances": [' + b"] " * 8000, Limits()) is None
