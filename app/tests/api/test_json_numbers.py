"""Numbers through JSON and back."""

import json
import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_server.api.json_text import dump_numbers, shown

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@settings(max_examples=300, deadline=None)
@given(array=hnp.arrays(st.sampled_from([np.float32, np.float64]), SHAPES))
def test_floats_come_back_bit_by_bit(array):
    text = dump_numbers(array)

    back = np.array(json.loads(text), dtype=array.dtype).reshape(array.shape)

    assert np.array_equal(np.signbit(back), np.signbit(array)) or np.isnan(array).any()
    assert np.array_equal(back, array, equal_nan=True)


@settings(max_examples=300, deadline=None)
@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float_is_told_from_an_integer_and_short(value):
    text = dump_numbers(np.array(value, dtype=np.float32)).decode()

    assert "." in text or "e" in text
    assert len(text) <= 16


@settings(max_examples=200, deadline=None)
@given(
    array=hnp.arrays(st.sampled_from([np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64, np.bool_]), SHAPES)
)
def test_integers_and_bools_come_back_exactly(array):
    back = json.loads(dump_numbers(array))

    assert back == array.tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_scalar_that_is_no_number(value):
    assert json.loads(dump_numbers(np.array(value))) == pytest.approx(value, nan_ok=True)


def test_arrays_in_any_layout_are_written_row_by_row():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)

    assert json.loads(dump_numbers(array.T)) == array.T.tolist()
    assert json.loads(dump_numbers(array[:, ::2])) == array[:, ::2].tolist()


@settings(max_examples=50, deadline=None)
@given(
    value=st.recursive(
        st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(), inner, max_size=9),
    )
)
def test_shown_values_are_short(value):
    assert len(shown(value)) < 256 + 400


def test_a_value_is_shown_as_in_tensorflow_serving():
    assert shown({"a": [1, {"b": None}], "c": {}}) == ('{\n    "a": [1, {\n        "b": null\n    }],\n    "c": {}\n}')
    assert len(shown(list(range(100_000)))) < 300
    assert len(shown("x" * 100_000)) < 300
