"""A TensorFlow Serving tree is taken over in place; a version's folder is checked against its manifest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import windlass_testing.store
from windlass_cli.main import app
from windlass_contract.artifact import verify
from windlass_contract.document import load_yaml
from windlass_contract.model_version import ModelVersion


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def original() -> Path:
    return windlass_testing.store.built("affine_v1", scale=0.5, offset=2.0)


@pytest.fixture
def tree(tmp_path: Path, original: Path) -> Path:
    for version in (1, 2):
        shutil.copytree(original, tmp_path / "tree" / "half" / str(version))
    (tmp_path / "tree" / "half" / "3").mkdir()
    (tmp_path / "tree" / "half" / "notes").mkdir()
    return tmp_path / "tree"


def test_adopting_adds_a_manifest_and_parity_samples_and_nothing_else(tree: Path, original: Path) -> None:
    result = run("adopt", tree, "--version", 1, "--server", "vision", "--no-measure")
    assert result.exit_code == 0, result.output
    folder = tree / "half" / "1"
    before, after = files(original), files(folder)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"manifest.json", "windlass/parity/serving_default.npz"}
    digest = verify(folder, model="half", version=1).digest
    (document,) = [ModelVersion.parse(load_yaml(result.stdout, "document"), "document")]
    assert (document.spec.server, document.spec.artifact.digest) == ("vision", digest)
    assert not (tree / "half" / "2" / "manifest.json").exists()

    again = run("adopt", tree, "--version", 1)
    assert again.exit_code == 0
    assert "has a manifest already" in again.output
    assert files(folder) == after


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tree: Path) -> None:
    before = files(tree)
    result = run("adopt", tree, "--dry-run")
    assert result.exit_code == 0
    assert [line.split(" for ")[1] for line in result.stdout.splitlines()] == [
        "model half version 1",
        "model half version 2",
    ]
    assert "holds neither" in result.output
    assert files(tree) == before


def test_a_folder_whose_name_no_model_can_have_is_left_out(tree: Path) -> None:
    (tree / "half").rename(tree / "a half")
    before = files(tree)
    result = run("adopt", tree)
    assert result.exit_code == 0
    assert "is left out: no model can have its folder's name: 'a half'" in " ".join(result.output.split())
    assert files(tree) == before


def test_the_folder_of_one_model_is_a_tree_too_and_documents_go_where_they_are_wanted(tree: Path) -> None:
    documents = tree.parent / "documents"
    documents.mkdir()
    result = run("adopt", tree / "half", "--version", 2, "--no-measure", "--no-parity", "--modelversions", documents)
    assert result.exit_code == 0, result.output
    document = yaml.safe_load((documents / "half-2.yaml").read_text())
    assert (document["spec"]["model"], document["spec"]["version"]) == ("half", 2)
    assert document["spec"]["artifact"]["digest"] == result.stdout.strip()
    assert not (tree / "half" / "2" / "windlass").exists()


def test_what_an_interrupted_adoption_left_is_replaced(tree: Path) -> None:
    left = tree / "half" / "1" / "windlass" / "parity"
    left.mkdir(parents=True)
    (left / "old.npz").write_bytes(b"half written")
    result = run("adopt", tree, "--version", 1, "--no-measure")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in left.iterdir()) == ["serving_default.npz"]


def test_a_model_that_cant_be_loaded_isnt_adopted_and_nothing_is_added(tree: Path) -> None:
    folder = tree / "half" / "1"
    weights = next(folder.glob("variables/variables.data*"))
    weights.write_bytes(weights.read_bytes()[:1])
    before = files(folder)
    result = run("adopt", tree, "--version", 1)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert files(folder) == before


@pytest.mark.parametrize("place", ["missing", "."])
def test_a_tree_without_versions_is_refused(place: str, tmp_path: Path) -> None:
    assert run("adopt", tmp_path / place).exit_code == 1


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    source = windlass_testing.store.built("affine_tflite", scale=0.5, offset=2.0, signatures=True) / "model.tflite"
    assert run("pack", source, "--model", "m", "--version", 1, "-o", models, "--no-measure").exit_code == 0
    return models / "m" / "1"


def test_verifying_prints_the_digest(version: Path) -> None:
    result = run("verify", version)
    assert (result.exit_code, result.stdout.strip()) == (0, verify(version, model="m", version=1).digest)


def test_verifying_names_the_file_that_isnt_as_listed(version: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(version, tmp_path / "m" / "1")
    model = copy / "model.tflite"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    result = run("verify", copy)
    assert result.exit_code == 1
    assert "FileDigestMismatch" in result.output
    assert "model.tflite" in result.output


def test_verifying_another_digest_or_no_version_fails(version: Path, tmp_path: Path) -> None:
    assert run("verify", version, "--digest", f"sha256:{'0' * 64}").exit_code == 1
    missing = run("verify", tmp_path)
    assert missing.exit_code == 1
    assert "windlass adopt" in missing.output


def test_a_version_in_a_folder_of_another_name_is_told(version: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(version, tmp_path / "other" / "7")
    result = run("verify", copy)
    assert result.exit_code == 0
    assert "m/1, not in other/7" in result.output
