"""Which `.tflite` files may be run in slices."""

from __future__ import annotations

import pytest
from ai_edge_litert.schema_py_generated import BuiltinOperator

from windlass_server.runtimes import litert_runtime
from windlass_testing import models

NUMBERS = {name: value for name, value in vars(BuiltinOperator).items() if isinstance(value, int)}


def test_a_model_of_plain_operators_may_be(tmp_path):
    folder = models.affine_tflite(tmp_path, "m", 1, 2.0, 1.0)
    assert litert_runtime.load(folder).may_slice("serving_default")


@pytest.mark.parametrize(
    ("operator", "may"),
    [
        ("ADD", True), ("CONV_2D", True), ("SOFTMAX", True), ("STABLEHLO_ADD", True),
        ("IF", False), ("WHILE", False), ("CALL_ONCE", False), ("ASSIGN_VARIABLE", False), ("CUSTOM", False),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", False), ("RANDOM_UNIFORM", False), ("STABLEHLO_CASE", False), (None, False),
    ],
)  # fmt: skip
def test_by_its_operators(tmp_path, monkeypatch, operator, may):
    folder = models.affine_tflite(tmp_path, "m", 1, 2.0, 1.0)
    number = max(NUMBERS.values()) + 1000 if operator is None else NUMBERS[operator]
    monkeypatch.setattr(litert_runtime, "builtin_operators", lambda _: frozenset({0, number}))
    assert litert_runtime.load(folder).may_slice("serving_default") is may


def test_all_known_operators_that_remember_or_branch_are_named():
    words = ("LSTM", "RNN", "SVDF", "WHILE", "CALL", "VARIABLE", "VAR_HANDLE", "RANDOM", "RNG", "CUSTOM", "CASE")
    exact = {"IF", "DELEGATE", "MULTINOMIAL", "HASHTABLE", "STABLEHLO_COMPOSITE"}
    suspect = {value for name, value in NUMBERS.items() if name in exact or any(word in name for word in words)}
    assert suspect <= litert_runtime._NOT_ONLY_COMPUTING
