from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from windlass_contract.manifest import DataType, FileEntry, Manifest, ModelFormat, Signature, TensorSpec
from windlass_contract.samples import AcceptanceSample, Expectation
from windlass_server.hosting import trials
from windlass_server.hosting.parity import read_parity


def spec(datatype: str = "FP32", shape: list[int] | None = None) -> TensorSpec:
    return TensorSpec(datatype=DataType(datatype), shape=shape)


def signature(inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec] | None = None, **more: Any) -> Signature:
    return Signature(inputs=inputs, outputs=outputs or {"y": spec("FP32", [-1, 3])}, **more)


MANIFEST = Manifest(
    model="m",
    version=1,
    format=ModelFormat.SAVED_MODEL,
    files=[FileEntry(path="saved_model.pb", size=1, sha256="0" * 64)],
    signatures={"serving_default": signature({"x": spec("FP32", [-1, 2])})},
    classes=["cat", "dog", "fish"],
)


@pytest.mark.parametrize(
    ("expected", "got", "tolerance", "wrong"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0, None),
        ([1.0, 2.0], [1.0, 2.1], 1e-3, "1 of 2 values differ, the first at [1]: expected 2, got 2.1"),
        ([1.0], [1.0005], 1e-3, None),
        ([float("nan")], [float("nan")], 0, None),
        ([float("inf")], [float("inf")], 0, None),
        ([float("inf")], [float("-inf")], 1e-3, "1 of 1 values differ, the first at [0]: expected inf, got -inf"),
        ([1.0], [float("nan")], 1e-3, "1 of 1 values differ, the first at [0]: expected 1, got nan"),
        ([[1.0]], [1.0], 0, "expected shape [1, 1], got [1]"),
        (2.0, 3.0, 0, "1 of 1 values differ, the first: expected 2, got 3"),
    ],
)
def test_answers_differ_by_more_than_the_tolerance_or_not(
    expected: Any, got: Any, tolerance: float, wrong: str | None
) -> None:
    assert trials.difference(np.array(expected), np.array(got), tolerance, tolerance) == wrong


def test_bytes_are_compared_as_they_are() -> None:
    expected = np.array([b"a", b"b\0"], dtype=object)
    assert trials.difference(expected, expected.copy(), 0, 0) is None
    difference = trials.difference(expected, np.array([b"a", b"b"], dtype=object), 0, 0)
    assert difference is not None
    assert "expected b'b\\x00', got b'b'" in difference


def test_large_integers_are_compared_exactly_without_tolerance() -> None:
    big = np.array([2**62], dtype=np.int64)
    assert trials.difference(big, big + 1, 0, 0) is not None
    assert trials.difference(big, big.copy(), 0, 0) is None


def test_bfloat16_is_compared_within_the_tolerance() -> None:
    one = np.array([1.0], dtype=ml_dtypes.bfloat16)
    assert trials.difference(one, np.array([1.0078125], dtype=ml_dtypes.bfloat16), 1e-2, 0) is None
    assert trials.difference(one, np.array([1.0078125], dtype=ml_dtypes.bfloat16), 1e-3, 0) is not None


@pytest.mark.parametrize(
    ("promised", "loaded", "says"),
    [
        (signature({"x": spec("FP32", [-1, 2])}), signature({"x": spec("FP32", [-1, 2])}), None),
        (signature({"x": spec("FP32", [-1, 2])}), signature({"x": spec("FP32", [4, 2])}), None),
        (signature({"x": spec("FP32", None)}), signature({"x": spec("FP32", [4, 2])}), None),
        (
            signature({"x": spec("FP32", [-1, 2])}),
            signature({"x": spec("FP32", [-1, 3])}),
            "input 'x' is promised as FP32 [-1, 2], the model has FP32 [-1, 3]",
        ),
        (
            signature({"x": spec("FP32", [-1])}),
            signature({"x": spec("FP64", [-1])}),
            "input 'x' is promised as FP32 [-1], the model has FP64 [-1]",
        ),
        (
            signature({"x": spec("FP32", [-1])}),
            signature({"x": spec("FP32", [-1, 1])}),
            "input 'x' is promised as FP32 [-1], the model has FP32 [-1, 1]",
        ),
        (
            signature({"x": spec()}),
            signature({"z": spec()}),
            "promised inputs are ['x'], the model's are ['z']",
        ),
        (
            signature({"x": spec()}),
            signature({"x": spec()}, {"scores": spec()}),
            "promised outputs are ['y'], the model's are ['scores']",
        ),
        (
            signature({"x": spec()}, method="classify"),
            signature({"x": spec()}),
            "promised for classify, the model has it for predict",
        ),
    ],
)
def test_a_signature_differs_in_names_types_sizes_or_method(
    promised: Signature, loaded: Signature, says: str | None
) -> None:
    difference = trials.signature_difference({"s": promised}, {"s": loaded, "another": loaded})
    assert difference is None if says is None else difference == f"signature 's': {says}"


def test_a_promised_signature_that_is_missing_is_named() -> None:
    difference = trials.signature_difference({"s": signature({})}, {"t": signature({})})
    assert difference == "the manifest promises a signature 's', the model has ['t']"


def test_zeros_fill_open_dimensions_with_the_batch_first_and_one_elsewhere() -> None:
    tensors = trials.zeros(
        signature(
            {"a": spec("FP32", [-1, -1, 3]), "b": spec("BYTES", [-1]), "c": spec("BF16", None), "d": spec("BOOL", [])}
        ),
        4,
        10_000,
    )
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"a": (4, 1, 3), "b": (4,), "c": (4,), "d": ()}
    assert tensors["b"].tolist() == [b""] * 4


def test_zeros_beyond_the_bound_are_refused_before_they_are_made() -> None:
    with pytest.raises(ValueError, match="take more than the 1000 bytes"):
        trials.zeros(signature({"a": spec("FP32", [2**31 - 1, 2**31 - 1, 2**31 - 1])}), 1, 1000)


@pytest.mark.parametrize(
    ("expect", "answer", "wrong"),
    [
        ({"class_index": 1}, [[0.1, 0.8, 0.1]], None),
        ({"class_name": "dog"}, [[0.1, 0.8, 0.1]], None),
        ({"class_name": "cat"}, [[0.1, 0.8, 0.1]], "expected class 0 (cat), got 1 (dog) (score 0.8)"),
        ({"class_index": 1, "min_score": 0.9}, [[0.1, 0.8, 0.1]], "expected a score of at least 0.9, got 0.8"),
        ({"class_index": 7}, [[0.1, 0.8, 0.1]], "expected class 7, got 3 scores"),
        ({"class_index": 0}, [[float("nan"), 0.8, 0.1]], "expected class 0 (cat), got NaN among the scores"),
        ({"values": [1, 2.0, 3]}, [[1.0, 2.0, 3.0]], None),
        (
            {"values": [1, 2, 4]},
            [[1.0, 2.0, 3.0]],
            "1 of 3 values differ, the first at [2]: expected 4, got 3",
        ),
    ],
)
def test_an_answer_is_judged_by_class_score_or_values(expect: dict[str, Any], answer: Any, wrong: str | None) -> None:
    assert trials.judge(Expectation(**expect), np.array(answer, np.float32), MANIFEST) == wrong


@pytest.mark.parametrize(
    ("correct", "total", "least", "passed"),
    [(19, 20, 950, True), (18, 20, 950, False), (999, 1000, 1000, False), (2, 3, 667, False), (2, 3, 666, True)],
)
def test_the_score_is_compared_without_rounding(correct: int, total: int, least: int, passed: bool) -> None:
    assert trials.Verdict(correct, total, ()).passed(least) is passed


def test_the_statistic_says_score_and_what_is_wanted() -> None:
    assert trials.Verdict(6, 50, ()).statistic(950) == "score 0.12 of 0.95 (6 of 50 samples)"


@pytest.mark.parametrize(
    ("value", "datatype", "expected"),
    [
        ([1, 2], "FP32", np.array([[1, 2]], np.float32)),
        ([1, 2], "INT8", np.array([[1, 2]], np.int8)),
        ([True, False], "BOOL", np.array([[True, False]])),
        (["a", {"b64": "AAE="}], "BYTES", np.array([[b"a", b"\0\1"]], dtype=object)),
    ],
)
def test_a_samples_input_becomes_a_batch_of_one(value: Any, datatype: str, expected: Any) -> None:
    sample = AcceptanceSample(inputs={"x": value}, expect=Expectation(class_index=0))
    tensor = trials.sample_inputs(sample, signature({"x": spec(datatype, [-1, 2])}), 1000)["x"]
    assert tensor.dtype == expected.dtype
    np.testing.assert_array_equal(tensor, expected)


@pytest.mark.parametrize(
    ("inputs", "datatype", "says"),
    [
        ({"z": [1, 2]}, "FP32", "its inputs are ['z'], the model's are ['x']"),
        ({"x": [1, 2, 3]}, "FP32", "has shape [3] (without the batch), the model's is [2]"),
        ({"x": [[1], [2, 3]]}, "FP32", "is no FP32"),
        ({"x": ["a", "b"]}, "FP32", "numbers in lists of equal lengths are expected"),
        ({"x": [1.5, 2]}, "INT32", "whole numbers are expected"),
        ({"x": [300, 2]}, "INT8", "a number beyond -128 … 127"),
        ({"x": [-1, 2]}, "UINT64", "a number beyond 0"),
        ({"x": [1, 0]}, "BOOL", "true and false are expected"),
        ({"x": [True, False]}, "FP32", "numbers are expected, not true and false"),
        ({"x": [1, 2]}, "BYTES", "is expected, found int"),
        ({"x": [{"b64": "?"}, "b"]}, "BYTES", "b64:"),
        ({"x": [["a"], "b"]}, "BYTES", "lists of equal depth are expected"),
    ],
)
def test_a_sample_that_does_not_fit_the_model_is_the_samples_fault(
    inputs: dict[str, Any], datatype: str, says: str
) -> None:
    sample = AcceptanceSample(inputs=inputs, expect=Expectation(class_index=0))
    with pytest.raises(trials.UnusableSampleError) as raised:
        trials.sample_inputs(sample, signature({"x": spec(datatype, [-1, 2])}), 1000)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("expect", "outputs", "says"),
    [
        ({"class_index": 0}, {"a": spec(), "b": spec()}, "has to name one of the outputs ['a', 'b']"),
        ({"class_index": 0, "output": "c"}, {"a": spec()}, "the model's outputs are ['a']"),
        ({"class_name": "bird"}, {"a": spec()}, "which the manifest's classes don't have"),
        ({"class_index": 0}, {"a": spec("BYTES")}, "has no scores"),
        ({"values": ["x"]}, {"a": spec()}, "are no FP32"),
    ],
)
def test_an_expectation_that_no_answer_can_meet_is_the_samples_fault(
    expect: dict[str, Any], outputs: dict[str, TensorSpec], says: str
) -> None:
    with pytest.raises(trials.UnusableSampleError) as raised:
        trials.check_expectation(Expectation(**expect), signature({}, outputs), MANIFEST)
    assert says in str(raised.value)


def test_samples_are_cut_to_the_models_fixed_batch() -> None:
    inputs = {"x": np.zeros((5, 2), np.float32)}
    assert list(trials.batches(signature({"x": spec("FP32", [-1, 2])}), inputs)) == [slice(None)]
    assert list(trials.batches(signature({"x": spec("FP32", [2, 2])}), inputs)) == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 6),
    ]


PARITY = signature({"x": spec("BF16", [-1, 2]), "name": spec("BYTES", [-1])}, {"y": spec("FP32", [-1, 3])})


def test_parity_samples_are_read_back_in_the_signatures_types(tmp_path: Path) -> None:
    x = np.array([[1, 2]], dtype=ml_dtypes.bfloat16)
    y = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    path = tmp_path / "p.npz"
    np.savez(path, **{"input:x": x, "input:name": np.array([b"ab"]), "output:y": y})
    arrays = read_parity(path.read_bytes(), PARITY)
    assert arrays.inputs["x"].dtype == x.dtype
    assert arrays.inputs["name"].tolist() == [b"ab"]
    np.testing.assert_array_equal(arrays.outputs["y"], y)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"output:y": np.zeros(3, np.float32)}, "it has the inputs"),
        ({"input:x": np.zeros((1, 2), ml_dtypes.bfloat16), "input:name": np.array([b"a"])}, "nothing to compare with"),
        ({"input:q": np.zeros(3, np.float32)}, "there is an array 'input:q'"),
        ({"stray": np.zeros(3, np.float32)}, "there is an array 'stray'"),
        ({"output:y": np.zeros(3, np.float64)}, "output:y is of float64, the signature's is float32"),
        ({"input:name": np.zeros(3, np.float32)}, "expected are byte strings"),
        ({"input:name": np.array([{}], dtype=object)}, "Python objects"),
    ],
)
def test_parity_samples_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError) as raised:
        read_parity(path.read_bytes(), PARITY)
    assert says in str(raised.value)


def archive(header: bytes, body: bytes = b"", name: str = "output:y.npy", **how: Any) -> bytes:
    """An .npz with one array, whose header says whatever it says."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **how) as file:
        file.writestr(name, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body)
    return stream.getvalue()


def header(descr: str, shape: str) -> bytes:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (archive(header("<f4", "(1099511627776, 4)")), "has 0 bytes, its header says"),
        (archive(header("<f4", "(99999999999999, 0)")), "has 0 bytes, its header says"),
        (archive(header("|S0", "(2000000000,)"), name="input:name.npy"), "more than 1000000 byte strings"),
        (
            archive(header("|S1", "(1000001,)"), bytes(1000001), "input:name.npy", compression=zipfile.ZIP_DEFLATED),
            "more than 1000000 byte strings",
        ),
        (archive(header("<f4", "(" + "1, " * 40 + ")"), bytes(4)), "its header says"),
        (archive(header("|O8", "(1,)"), bytes(8)), "Python objects"),
        (archive(header("<q9", "(1,)"), bytes(8)), "unknown kind"),
        (archive(b"(" * 1000), "no plain array"),
        (archive(b"{'descr': '<f4', 'fortran_order': False, 'shape': ("), "no plain array"),
        (archive(header("<f4", "(1,)") + b" " * 60_000), "no plain array"),
        (archive(header("<f4", "(1,)"), bytes(4), compression=zipfile.ZIP_LZMA), "compressed in a way"),
        (archive(header("<f4", "(1,)"), bytes(4))[:-1], "no .npz file"),
        (archive(header("<f4", "(1,)"), bytes(4)) + b"PK", "no .npz file"),
        (b"PK\x05\x06" + b"\0" * 6 + b"\xff\xff" + b"\xff\xff\xff\x7f" + b"\0" * 6, "more than 512 arrays"),
        (
            archive(header("<f4", "(20000000,)"), bytes(80_000_000), compression=zipfile.ZIP_DEFLATED),
            "may have 67108864 bytes",
        ),
    ],
    # Archives hold the time when they were made: they can't name a test that several processes have to find.
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_a_hostile_file_of_parity_samples_costs_no_more_than_it_is_refused_for(data: bytes, says: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=says):
            read_parity(data, PARITY)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="it is no "):
        read_parity(path.read_bytes(), PARITY)
