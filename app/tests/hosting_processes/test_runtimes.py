"""What the runtimes make of real models: signatures, types, names, errors."""

from __future__ import annotations

import io
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from windlass_contract.artifact import read_manifest
from windlass_contract.manifest import DataType
from windlass_contract.report import VersionState
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.resident import Resident
from windlass_server.runtimes.saved_model_methods import methods
from windlass_server.tensors import NUMPY_TYPE
from windlass_testing import models

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Make = Callable[..., Resident]


def prepared(run: Run, resident: Resident) -> Resident:
    run(resident.prepare())
    assert resident.state is VersionState.PREPARED, resident.failure
    return resident


def some(datatype: DataType) -> Any:
    if datatype is DataType.BYTES:
        return np.array([[b"", b"\0"], ["é".encode(), b"\xff\n"]], dtype=object)
    values = np.array([[0, 1], [1, 0]]) if datatype is DataType.BOOL else np.array([[0, 1], [2, 100]])
    return values.astype(NUMPY_TYPE[datatype])


def test_every_element_type_goes_through_a_saved_model_unchanged(run: Run, make_resident: Make, tmp_path: Path) -> None:
    folder = models.identity(tmp_path)
    resident = prepared(run, make_resident("identity"))
    assert resident.signatures == read_manifest(folder).manifest.signatures
    inputs = {name: some(spec.datatype) for name, spec in resident.signatures["serving_default"].inputs.items()}
    answer = run(resident.infer("serving_default", inputs, timeout=60))
    for name, tensor in inputs.items():
        assert answer[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(answer[name], tensor)
    assert list(run(resident.infer("serving_default", inputs, ["bf16"], timeout=60))) == ["bf16"]


def test_several_inputs_and_outputs_of_one_type_keep_their_names(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.named(tmp_path, "m", 1)
    resident = prepared(run, make_resident("m"))
    inputs = {name: np.array([[value]], np.float32) for name, value in (("m", 1), ("z", 2), ("a", 3))}
    answer = run(resident.infer("serving_default", inputs, timeout=60))
    assert {name: tensor.tolist() for name, tensor in answer.items()} == {
        "first": [[2]], "second": [[30]], "third": [[100]],
    }  # fmt: skip
    assert list(run(resident.infer("serving_default", inputs, ["third", "first"], timeout=60))) == ["third", "first"]


@pytest.mark.parametrize("shape", [(), (0,), (3,), (1, 2, 3)])
def test_a_tensor_of_any_rank_is_taken_where_the_signature_says_so(
    run: Run, make_resident: Make, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    models.identity(tmp_path)
    resident = prepared(run, make_resident("identity"))
    tensor = np.ones(shape, np.float32)
    answer = run(resident.infer("any_rank", {"x": tensor}, timeout=60))
    np.testing.assert_array_equal(answer["y"], tensor)


def test_empty_tensors_of_bytes_keep_their_shape(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.identity(tmp_path)
    resident = prepared(run, make_resident("identity"))
    answer = run(resident.infer("only_bytes", {"x": np.empty((0, 2), dtype=object)}, timeout=60))
    assert answer["y"].shape == (0, 2)
    assert answer["y"].dtype == object


def test_a_model_in_tensorflow_1_format_is_served(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.affine_v1(tmp_path, "m", 1, 2, 1)
    resident = prepared(run, make_resident("m"))
    answer = run(resident.infer("serving_default", {"x": np.array([[4]], np.float32)}, timeout=60))
    assert answer["y"].tolist() == [[9]]


def test_classify_and_regress_are_told_from_predict(run: Run, make_resident: Make, tmp_path: Path) -> None:
    folder = models.half_plus_two(tmp_path)
    assert methods(folder / "saved_model.pb") == {
        "serving_default": "tensorflow/serving/predict",
        "regress_x_to_y": "tensorflow/serving/regress",
        "classify_x_to_y": "tensorflow/serving/classify",
        "__saved_model_init_op": "",
    }
    resident = prepared(run, make_resident("half_plus_two"))
    assert {name: signature.method for name, signature in resident.signatures.items()} == {
        "serving_default": "predict",
        "regress_x_to_y": "regress",
        "classify_x_to_y": "classify",
    }


@pytest.mark.parametrize("data", [b"\x12\xff\xff\x03", b"\x12", b"\x0f\x00", b"\xff" * 12])
def test_a_file_that_is_no_saved_model_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "saved_model.pb").write_bytes(data)
    with pytest.raises(ValueError):
        methods(tmp_path / "saved_model.pb")


def test_images_are_decoded_by_the_model_and_what_is_no_image_is_refused(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.image_decoder(tmp_path, "m", 1)
    resident = prepared(run, make_resident("m"))
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (10, 20, 30)).save(file, "png")
    images = np.array([file.getvalue()], dtype=object)
    answer = run(resident.infer("serving_default", {"image_bytes": images}, timeout=60))
    assert answer["means"].tolist() == [[10, 20, 30]]
    with pytest.raises(ServingError) as raised:
        run(resident.infer("serving_default", {"image_bytes": np.array([b"no"], dtype=object)}, timeout=60))
    assert raised.value.code is Code.INVALID_ARGUMENT
    assert raised.value.message.startswith("Unknown image file format.")
    for inside in ("stack traces", "{{", "[Op:", "name:"):
        assert inside not in raised.value.message


@pytest.mark.parametrize("signatures", [True, False])
def test_a_tflite_model_is_served_in_batches_and_without_tensorflow(
    run: Run, make_resident: Make, tmp_path: Path, signatures: bool
) -> None:
    folder = models.affine_tflite(tmp_path, "m", 1, 2, 1, signatures=signatures)
    resident = prepared(run, make_resident("m"))
    assert resident.signatures == read_manifest(folder).manifest.signatures
    for rows in (1, 3, 2):
        x = np.arange(rows, dtype=np.float32).reshape(rows, 1)
        (answer,) = run(resident.infer("serving_default", {"x": x}, timeout=60)).values()
        np.testing.assert_allclose(answer, 2 * x + 1)
    maps = Path(f"/proc/{resident.worker_pid}/maps").read_text()
    assert "/ai_edge_litert/" in maps
    assert "/tensorflow/" not in maps


def test_a_tflite_file_that_cannot_be_read_fails_to_load(run: Run, make_resident: Make, tmp_path: Path) -> None:
    folder = models.affine_tflite(tmp_path, "m", 1, 2, 1)
    manifest = read_manifest(folder).manifest
    (folder / "model.tflite").write_bytes(b"no model at all")
    models.write_manifest(folder, "m", 1, manifest.signatures, format=manifest.format)
    resident = make_resident("m")
    run(resident.prepare())
    assert resident.state is VersionState.FAILED
    assert resident.failure is not None
    assert resident.failure.message.startswith("its operations can't be read: ValueError: it is no TFLite file")
