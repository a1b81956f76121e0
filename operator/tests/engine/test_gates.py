"""What breaks the clients of the committed version, and what doesn't."""

from __future__ import annotations

import pytest
from engine_builders import signature

from windlass_contract.failures import Gate, Reason
from windlass_operator.engine.gates import signature_change

OLD = signature({"x": ("FP32", [-1, 4])}, {"y": ("FP32", [-1, 2])})


@pytest.mark.parametrize(
    ("new", "says"),
    [
        pytest.param(None, "signature serving_default is gone", id="a removed signature"),
        pytest.param(signature({}, {"y": ("FP32", [-1, 2])}), "input x is gone", id="a removed input"),
        pytest.param(
            signature({"z": ("FP32", [-1, 4])}, {"y": ("FP32", [-1, 2])}), "input x is gone", id="a renamed input"
        ),
        pytest.param(
            signature({"x": ("FP32", [-1, 4]), "z": ("FP32", [-1])}, {"y": ("FP32", [-1, 2])}),
            "input z is new",
            id="a new required input",
        ),
        pytest.param(
            signature({"x": ("FP64", [-1, 4])}, {"y": ("FP32", [-1, 2])}), "is FP64, was FP32", id="an input's type"
        ),
        pytest.param(
            signature({"x": ("FP32", [-1, 5])}, {"y": ("FP32", [-1, 2])}), "[-1, 5], had [-1, 4]", id="an input's size"
        ),
        pytest.param(
            signature({"x": ("FP32", [-1, 4, 1])}, {"y": ("FP32", [-1, 2])}), "[-1, 4, 1]", id="an input's rank"
        ),
        pytest.param(
            signature({"x": ("FP32", [1, 4])}, {"y": ("FP32", [-1, 2])}), "[1, 4], had [-1, 4]", id="a fixed batch"
        ),
        pytest.param(signature({"x": ("FP32", [-1, 4])}, {"z": ("FP32", [-1, 2])}), "output y is gone", id="an output"),
        pytest.param(
            signature({"x": ("FP32", [-1, 4])}, {"y": ("INT64", [-1, 2])}), "is INT64, was FP32", id="an output's type"
        ),
        pytest.param(
            signature({"x": ("FP32", [-1, 4])}, {"y": ("FP32", [-1, 3])}), "[-1, 3], had [-1, 2]", id="an output's size"
        ),
        pytest.param(
            signature({"x": ("FP32", [-1, 4])}, {"y": ("FP32", [-1])}), "[-1], had [-1, 2]", id="an output's rank"
        ),
    ],
)
def test_a_change_that_breaks_clients_is_a_verdict_that_names_it(new, says):
    found = signature_change({"serving_default": OLD}, {} if new is None else {"serving_default": new})
    assert found is not None
    assert (found.gate, found.reason) == (Gate.SIGNATURE, Reason.SIGNATURE_CHANGED)
    assert found.is_verdict
    assert says in found.message
    assert "signatureChange" in found.message


@pytest.mark.parametrize(
    "new",
    [
        pytest.param({"serving_default": OLD}, id="nothing"),
        pytest.param({"serving_default": OLD, "other": OLD}, id="a new signature"),
        pytest.param(
            {"serving_default": signature({"x": ("FP32", [-1, 4])}, {"y": ("FP32", [-1, 2]), "z": ("FP32", [-1])})},
            id="a new output",
        ),
        pytest.param(
            {"serving_default": signature({"x": ("FP32", [-1, -1])}, {"y": ("FP32", [-1, 2])})},
            id="an input that takes more sizes",
        ),
        pytest.param(
            {"serving_default": signature({"x": ("FP32", None)}, {"y": ("FP32", [-1, 2])})},
            id="an input that takes any rank",
        ),
        pytest.param(
            {"serving_default": signature({"x": ("FP32", [-1, 4])}, {"y": ("FP32", [-1, -1])})},
            id="an output whose size is no longer known beforehand",
        ),
        pytest.param(
            {"serving_default": signature({"x": ("FP32", [-1, 4])}, {"y": ("FP32", [8, 2])})},
            id="an output whose size is now known",
        ),
    ],
)
def test_an_addition_or_widening_breaks_nobody(new):
    assert signature_change({"serving_default": OLD}, new) is None


def test_a_long_list_of_changes_is_cut_short():
    old = {f"s{index}": OLD for index in range(9)}
    found = signature_change(old, {})
    assert found is not None
    assert "and 4 more" in found.message
    assert len(found.message) < 2000
