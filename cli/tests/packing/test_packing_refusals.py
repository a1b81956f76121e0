"""What a person did wrong is said in a sentence with its remedy; nothing half-made is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import windlass_testing.store
from windlass_cli.commands import options
from windlass_cli.errors import UserError
from windlass_cli.main import app
from windlass_cli.packing import documents
from windlass_cli.packing.folder import copy_tree, staged
from windlass_cli.packing.image import image_input
from windlass_contract.manifest import DataType, Signature, TensorSpec

pytestmark = pytest.mark.timeout(600)  # each loads TensorFlow, on a machine that may be busy
WINDLASS = str(Path(sys.executable).parent / "windlass")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.keras", "there is no "),
        ("model.onnx", "a SavedModel folder, or a .keras, .h5 or .tflite file is expected"),
        ("empty", "there is no saved_model.pb in it"),
        ("text", "saved_model.pbtxt"),
    ],
)
def test_a_source_that_is_no_model_is_refused(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "saved_model.pbtxt").write_text("x")
    result = run("pack", tmp_path / name, "--model", "m", "--version", 1, "-o", tmp_path / "models")
    assert result.exit_code == 1
    assert says in result.output
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--model", "a/b", "--version", "1"], "letter or digit at both ends"),
        (["--model", "m", "--version", "-1"], "at least 0 is expected"),
        (["--model", "m", "--version", "one"], "integer"),
        (["--model", "m"], "--version"),
        (["--model", "m", "--version", "1", "--image", "large"], "WIDTHxHEIGHTxCHANNELS"),
        (["--model", "m", "--version", "1", "--scale", "1/255"], "go with --image"),
        (["--model", "m", "--version", "1", "--image", "8x8", "--scale", "tiny"], "1/255"),
        (["--model", "m", "--version", "1", "--decoding", "scaled"], "go with --image"),
        (["--model", "m", "--version", "1", "--image", "8x8", "--decoding", "half"], "'scaled'"),
        (["--model", "m", "--version", "1", "--classes", "nothing"], "separated by commas"),
        (["--model", "m", "--version", "1", "--input-spec", "image"], "NAME=TYPE[SHAPE]"),
        (["--model", "m", "--version", "1", "--min-score", "95%"], "goes with --samples"),
        (["--model", "m", "--version", "1", "--warmup", "0"], "1 to 4096"),
        (["--model", "m", "--version", "1", "--server", "Upper"], "small letters"),
    ],
)
def test_options_that_make_no_sense_end_with_exit_code_2(given: list[str], says: str, tmp_path: Path) -> None:
    result = run("pack", tmp_path, *given, "-o", tmp_path / "models")
    assert result.exit_code == 2
    # The message stands in a frame as wide as the terminal, which may cut its lines.
    plain = " ".join(result.output.replace("│", " ").split())
    assert says in plain
    assert not (tmp_path / "models").exists()


def test_a_version_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    source = windlass_testing.store.built("affine_tflite", scale=0.5, offset=2.0, signatures=True) / "model.tflite"
    first = run("pack", source, "--model", "m", "--version", 1, "-o", tmp_path, "--no-measure")
    assert first.exit_code == 0, first.output
    manifest = (tmp_path / "m" / "1" / "manifest.json").read_bytes()
    again = run("pack", source, "--model", "m", "--version", 1, "-o", tmp_path)
    assert again.exit_code == 1
    assert "is a version already" in again.output
    assert (tmp_path / "m" / "1" / "manifest.json").read_bytes() == manifest


def test_a_folder_that_cant_take_the_document_is_found_before_the_work(tmp_path: Path) -> None:
    source = windlass_testing.store.built("affine_tflite", scale=0.5, offset=2.0, signatures=True) / "model.tflite"
    document = tmp_path / "missing" / "m.yaml"
    result = run("pack", source, "--model", "m", "--version", 1, "-o", tmp_path, "--modelversion", document)
    assert result.exit_code == 1
    assert "make it first" in result.output
    assert not (tmp_path / "m").exists()


def test_without_tensorflow_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.keras").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    result = run("pack", tmp_path / "m.keras", "--model", "m", "--version", 1, "-o", tmp_path / "models")
    assert result.exit_code == 1
    assert "pip install 'windlass-cli[convert]'" in result.output


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_packing_leaves_nothing(how: signal.Signals, tmp_path: Path) -> None:
    source = windlass_testing.store.built("affine", scale=0.5, offset=2.0, ballast_mb=0, load_seconds=0)
    with start_packing(source, tmp_path) as process:
        assert process.stderr is not None
        while b"importing" not in process.stderr.readline():
            assert process.poll() is None
        assert [each.name[:11] for each in (tmp_path / "m").iterdir()] == [".1.packing-"]
        process.send_signal(how)
        rest = process.stderr.read()
    assert process.returncode == 128 + how
    assert b"Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_packing_left_is_removed_by_the_next(tmp_path: Path) -> None:
    source = windlass_testing.store.built("affine_tflite", scale=0.5, offset=2.0, signatures=True) / "model.tflite"
    with start_packing(source, tmp_path) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.kill()
    assert [each.name[:11] for each in (tmp_path / "m").iterdir()] == [".1.packing-"]
    result = run("pack", source, "--model", "m", "--version", 1, "-o", tmp_path, "--no-measure")
    assert result.exit_code == 0, result.output
    assert [each.name for each in (tmp_path / "m").iterdir()] == ["1"]


def start_packing(source: Path, models: Path) -> subprocess.Popen[bytes]:
    command = [WINDLASS, "pack", str(source), "--model", "m", "--version", "1", "-o", str(models)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(models.glob("m/.1.packing-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def test_two_packings_of_one_version_dont_mix(tmp_path: Path) -> None:
    """Each makes its own folder; the second to end is refused."""
    target = tmp_path / "m" / "1"

    def pack_while_another_is_at_it() -> None:
        with staged(target) as slow:
            with staged(target) as fast:
                assert slow.is_dir()
                (fast / "file").write_text("fast")
            (slow / "file").write_text("slow")

    with pytest.raises(UserError, match="exists already"):
        pack_while_another_is_at_it()
    assert (target / "file").read_text() == "fast"
    assert [each.name for each in (tmp_path / "m").iterdir()] == ["1"]


def test_a_packing_that_fails_leaves_no_folder_that_it_made_and_all_that_was_there(tmp_path: Path) -> None:
    def fail(target: Path) -> None:
        with staged(target):
            raise UserError("as the test says")

    for target in (tmp_path / "new" / "m" / "1", tmp_path / "there" / "1"):
        (tmp_path / "there").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="as the test says"):
            fail(target)
    assert [each.name for each in tmp_path.iterdir()] == ["there"]


def test_links_to_files_are_copied_as_files_and_links_to_folders_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (tmp_path / "blob").write_text("weights")
    (source / "saved_model.pb").symlink_to(tmp_path / "blob")
    (source / "manifest.json").write_text("of an earlier packing")
    copy_tree(source, target, lambda _count: None)
    assert (target / "saved_model.pb").read_text() == "weights"
    assert not (target / "saved_model.pb").is_symlink()
    assert not (target / "manifest.json").exists()
    (source / "variables").symlink_to(tmp_path)
    with pytest.raises(UserError, match="link to a folder"):
        copy_tree(source, target, lambda _count: None)


def signatures(**shapes: list[int] | None) -> dict[str, Signature]:
    specs = {name: TensorSpec(datatype=DataType.FP32, shape=shape) for name, shape in shapes.items()}
    return {"serving_default": Signature(inputs=specs, outputs={"y": TensorSpec(datatype=DataType.FP32, shape=[-1])})}


SIZE = {"width": 6, "height": 4, "channels": 3}


@pytest.mark.parametrize(
    ("shapes", "chosen"),
    [
        ({"x": [-1, 4, 6, 3]}, "x"),
        ({"x": [-1, -1, -1, 3]}, "x"),
        ({"mask": [-1, 4, 6, 1], "x": [-1, 4, 6, 3]}, "x"),
    ],
)
def test_the_input_that_takes_the_image_is_found(shapes: Any, chosen: str) -> None:
    found = image_input(SIZE, signatures(**shapes))
    assert found is not None
    assert found.input == chosen


@pytest.mark.parametrize(
    ("shapes", "given", "says"),
    [
        ({"x": [-1, 6, 4, 3]}, {}, "no input takes such an image"),
        ({"x": [-1, 10]}, {}, "no input"),
        ({"x": None}, {}, "no input"),
        ({"a": [-1, 4, 6, 3], "b": [-1, 4, 6, 3]}, {}, "--image-input"),
        ({"x": [-1, 4, 6, 3]}, {"input": "z"}, "there is no input 'z'"),
        ({"x": [-1, 10]}, {"input": "x"}, "has shape"),
        ({"x": [-1, 4, 6, 3]}, {"signature": "other"}, "no signature 'other'"),
    ],
)
def test_an_image_that_no_input_takes_is_refused(shapes: Any, given: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        image_input({**SIZE, **given}, signatures(**shapes))


def test_classes_come_from_a_list_a_text_file_or_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog, large\n\n")
    (tmp_path / "names.json").write_text('["cat", "dog"]')
    assert options.classes("cat, dog") == ["cat", "dog"]
    assert options.classes(str(tmp_path / "names.txt")) == ["cat", "dog, large"]
    assert options.classes(str(tmp_path / "names.json")) == ["cat", "dog"]


def test_input_specs_are_read() -> None:
    assert options.input_specs(["image=uint8[-1,28,28]", "text=BYTES[-1]", "scalar=FP32[]"]) == {
        "image": {"dtype": "uint8", "shape": [-1, 28, 28]},
        "text": {"dtype": "string", "shape": [-1]},
        "scalar": {"dtype": "float32", "shape": []},
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no json", "is not JSON"),
        ('{"samples": []}', "samples"),
        ('{"samples": [{"inputs": {"y": 1}, "expect": {"classIndex": 1}}]}', r"samples\[0\].inputs has \['y'\]"),
        ('{"signature": "z", "samples": [{"inputs": {"x": 1}, "expect": {"classIndex": 1}}]}', "isn't the model's"),
    ],
)
def test_acceptance_samples_that_dont_fit_the_model_are_refused(content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    path.write_text(content)
    with pytest.raises(UserError, match=says):
        documents.check_samples(path, {"serving_default": ["x"]})


def test_the_document_is_one_that_the_operator_takes() -> None:
    text = documents.model_version_text(
        server="vision", model="Cats_Dogs", version=4, digest=f"sha256:{'0' * 64}", samples="s.json", min_score="95%"
    )
    assert "name: cats-dogs-4" in text
    assert "minScore: 95%" in text
