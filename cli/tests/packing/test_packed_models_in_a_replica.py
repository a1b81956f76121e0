"""Each kind of model is really packed, and looked at with the replica's own code: what the manifest says and what the
replica finds must not drift apart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import windlass_testing.store
from windlass_cli.main import app
from windlass_contract.manifest import MANIFEST_NAME, Manifest, ModelFormat
from windlass_contract.operations import forbidden_operations

HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(900)  # eleven models are packed before the first test, on a machine that may be busy
PREPARE = HERE / "prepare.py"
Pack = Callable[..., Path]


@pytest.fixture(scope="module")
def keras_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    subprocess.run([sys.executable, str(HERE / "keras_models.py"), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    models = tmp_path_factory.mktemp("models")

    def run(source: Path, model: str, *options: str, version: int = 1) -> Path:
        arguments = ["pack", str(source), "--model", model, "--version", str(version), "-o", str(models), *options]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return models / model / str(version)

    return run


@pytest.fixture(scope="module")
def packed(keras_models: Path, pack: Pack) -> dict[str, Path]:
    """One version of each kind."""
    built = windlass_testing.store.built
    types = {
        "fp32": "float32",
        "int64": "int64",
        "bool": "bool",
        "bf16": "bfloat16",
        "fp16": "float16",
        "bytes": "string",
    }
    image = ["--image", "8x8x1", "--scale", "1/255", "--decoding", "scaled"]
    return {
        "keras": pack(keras_models / "named.keras", "keras", *image),
        "h5": pack(keras_models / "automatic.h5", "h5"),
        "several": pack(keras_models / "several.keras", "several", "--warmup", "1,4"),
        "odd_names": pack(keras_models / "odd_names.keras", "odd_names"),
        "saved_model": pack(built("affine", scale=0.5, offset=2.0, ballast_mb=0, load_seconds=0), "saved_model"),
        "tensorflow_1": pack(built("affine_v1", scale=0.5, offset=2.0), "tensorflow_1"),
        "all_types": pack(built("identity", types=types), "all_types"),
        "pictures": pack(built("image_decoder"), "pictures"),
        "tflite": pack(built("affine_tflite", scale=0.5, offset=2.0, signatures=True) / "model.tflite", "tflite"),
        "unnamed": pack(built("affine_tflite", scale=0.5, offset=2.0, signatures=False) / "model.tflite", "unnamed"),
        "preprocessed": pack(keras_models / "named.keras", "preprocessed", "--preprocess", f"{PREPARE}:prepare"),
        "with_table": pack(keras_models / "automatic.h5", "with_table", "--preprocess", f"{PREPARE}:by_letter"),
    }


@pytest.fixture(scope="module")
def found(packed: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """What a replica finds in them."""
    ran = subprocess.run(
        [sys.executable, str(HERE / "replica_side.py"), *(str(each) for each in packed.values())],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    by_folder = json.loads(ran.stdout.splitlines()[-1])
    return {kind: by_folder[str(folder)] for kind, folder in packed.items()}


KINDS = [
    *(
        "keras",
        "h5",
        "several",
        "odd_names",
        "saved_model",
        "tensorflow_1",
        "all_types",
        "pictures",
        "tflite",
        "unnamed",
    ),
    *("preprocessed", "with_table"),
]


def manifest_of(folder: Path) -> Manifest:
    return Manifest.parse_json((folder / MANIFEST_NAME).read_bytes(), str(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_finds_exactly_the_signatures_that_the_manifest_lists(kind: str, found: Any) -> None:
    assert found[kind]["equal"], (found[kind]["signatures"], found[kind]["declared"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_gives_the_parity_answers(kind: str, found: Any) -> None:
    expected = {"saved_model": ["serving_default"]}.get(kind, sorted(found[kind]["signatures"]))
    assert sorted(found[kind]["parity"]) == expected


def test_keras_names_that_people_gave_are_kept_and_automatic_ones_dont_count_up(found: Any) -> None:
    named, automatic = found["keras"]["declared"]["serving_default"], found["h5"]["declared"]["serving_default"]
    assert (list(named["inputs"]), list(named["outputs"])) == (["image"], ["scores"])
    assert (list(automatic["inputs"]), list(automatic["outputs"])) == (["input_0"], ["output_0"])


def test_several_inputs_and_outputs_keep_their_names(found: Any) -> None:
    signature = found["several"]["declared"]["serving_default"]
    assert (sorted(signature["inputs"]), sorted(signature["outputs"])) == (["left", "right"], ["price", "total"])


def test_names_that_tensorflow_cant_take_are_written_as_it_writes_them(found: Any) -> None:
    signature = found["odd_names"]["declared"]["serving_default"]
    assert (sorted(signature["inputs"]), list(signature["outputs"])) == (["arg_2nd", "left_hand_side"], ["total"])


def test_methods_of_tensorflow_serving_are_kept(found: Any) -> None:
    methods = {name: each["method"] for name, each in found["saved_model"]["declared"].items()}
    assert methods == {"serving_default": "predict", "regress_x_to_y": "regress", "classify_x_to_y": "classify"}


def test_a_packed_keras_model_answers_as_keras_did(packed: dict[str, Path], keras_models: Path) -> None:
    """In inference mode: the dropout of the model is off."""
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "loaded = tf.saved_model.load(sys.argv[1])\n"
        "answer = loaded.signatures['serving_default'](image=tf.ones([2, 8, 8, 1]))\n"
        "np.save(sys.argv[2], answer['scores'].numpy())\n"
    )
    answer = keras_models / "answer.npy"
    subprocess.run([sys.executable, "-c", program, packed["keras"], answer], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(answer), np.load(keras_models / "named.keras.npy"), atol=1e-6)


def test_preprocessing_becomes_the_input_that_clients_send(found: Any) -> None:
    signature = found["preprocessed"]["declared"]["serving_default"]
    assert signature["inputs"] == {"photo": {"datatype": "UINT8", "shape": [-1, -1, -1]}}
    assert list(signature["outputs"]) == ["scores"]
    assert found["with_table"]["declared"]["serving_default"]["inputs"]["letter"]["datatype"] == "BYTES"


def test_the_manifest_says_how_an_image_becomes_a_tensor(packed: dict[str, Path]) -> None:
    image = manifest_of(packed["keras"]).image
    assert image is not None
    assert (image.input, image.width, image.height, image.channels) == ("image", 8, 8, 1)
    assert image.scale == pytest.approx(1 / 255)


def test_the_memory_it_takes_is_measured(packed: dict[str, Path]) -> None:
    for kind in ("keras", "tflite"):
        memory = manifest_of(packed[kind]).memory_bytes
        assert memory is not None
        assert 0 < memory < 2 * 1024**3


def test_warm_up_sizes_are_kept(packed: dict[str, Path]) -> None:
    assert manifest_of(packed["several"]).warmup_batch_sizes == [1, 4]


def test_packing_the_same_model_again_gives_the_same_files(
    keras_models: Path, packed: dict[str, Path], pack: Pack
) -> None:
    """Parity samples included; so the digest is the same too, as far as the measured memory is."""
    again = manifest_of(pack(keras_models / "automatic.h5", "h5", "--no-measure", version=2))
    assert again.files == manifest_of(packed["h5"]).files


@pytest.mark.parametrize("name", ["code.keras", "code.h5"])
def test_python_code_in_a_keras_file_runs_only_when_allowed(name: str, keras_models: Path, tmp_path: Path) -> None:
    arguments = ["pack", str(keras_models / name), "--model", "m", "--version", "1", "-o", str(tmp_path)]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1
    assert "--allow-code" in refused.output
    assert not (tmp_path / "m" / "1").exists()
    assert CliRunner().invoke(app, [*arguments, "--allow-code", "--no-measure"]).exit_code == 0
    # What replicas get is a graph without the code.
    packed = tmp_path / "m" / "1"
    assert (packed / "saved_model.pb").is_file()
    assert forbidden_operations(packed, ModelFormat.SAVED_MODEL) == []
    assert [path for path in packed.rglob("*") if path.suffix in {".keras", ".h5", ".py"}] == []


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("unannotated", "--input-spec 'x="),
        ("wrong_shape", "the model takes (None, 3)"),
        ("with_numpy", "tf operations"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_preprocessing_that_doesnt_fit_is_refused_with_the_remedy(
    function: str, says: str, keras_models: Path, tmp_path: Path
) -> None:
    source = str(keras_models / "automatic.h5")
    arguments = ["pack", source, "--model", "m", "--version", "1", "-o", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, "--preprocess", f"{PREPARE}:{function}"])
    assert result.exit_code == 1
    assert says in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "m").exists()


def test_parity_inputs_of_real_data_are_taken(pack: Pack, tmp_path: Path) -> None:
    inputs = tmp_path / "real.npy"
    np.save(inputs, np.full([3, 1], 7.0))
    source = windlass_testing.store.built("affine_tflite", scale=0.5, offset=2.0, signatures=True) / "model.tflite"
    folder = pack(source, "real", "--parity-inputs", str(inputs), "--no-measure")
    with np.load(folder / "windlass" / "parity" / "serving_default.npz", allow_pickle=False) as arrays:
        assert arrays["input:x"].dtype == np.float32
        assert (arrays["input:x"].tolist(), arrays["output:y"].tolist()) == ([[7.0]] * 3, [[5.5]] * 3)


def test_a_model_that_kills_its_process_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    source = windlass_testing.store.built("crashing", at_load=True)
    result = CliRunner().invoke(app, ["pack", str(source), "--model", "m", "--version", "1", "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert "ended by SIGABRT" in result.output
    assert not (tmp_path / "m").exists()


def test_packing_warns_of_operations_that_replicas_refuse(tmp_path: Path) -> None:
    source = windlass_testing.store.built("hostile", does="reads_file", at_load=False, argument="/etc/hostname")
    result = CliRunner().invoke(
        app, ["pack", str(source), "--model", "m", "--version", "1", "-o", str(tmp_path), "--no-parity", "--no-measure"]
    )
    assert result.exit_code == 0, result.output
    assert "replicas will refuse this version" in " ".join(result.output.split())
    assert "--allow-operation ReadFile" in " ".join(result.output.split())
