"""The JSON Schemas that are checked in are the models'."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from windlass_contract.identifiers import WORDS
from windlass_contract.schemas import DOCUMENTS, FOLDER, drifted, generate, write


def test_no_schema_has_drifted() -> None:
    assert drifted() == [], "run python -m windlass_contract.schemas"


def test_the_same_is_generated_each_time() -> None:
    code = "from windlass_contract.schemas import generate; import sys; sys.stdout.write(repr(generate()))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert texts == {repr(generate())}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_is_a_valid_schema_that_explains_itself(document: type) -> None:
    schema = json.loads((FOLDER / f"{document.__name__}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["description"]


def test_every_pattern_is_explained_in_words() -> None:
    def patterns(node: Any) -> set[str]:
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
        found = {node["pattern"]} if isinstance(node, dict) and isinstance(node.get("pattern"), str) else set()
        return found.union(*(patterns(child) for child in children))

    used = set().union(*(patterns(json.loads(text)) for text in generate().values()))
    assert used == set(WORDS)


def test_what_people_write_wrong_the_schema_finds_too() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(generate()["ModelVersion.json"]))
    good = {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": "digits-2"},
        "spec": {"server": "digits", "model": "digits", "version": 2, "artifact": {"uri": "volume://"}},
    }
    assert list(validator.iter_errors(good)) == []
    for path, value in [("version", "2"), ("sever", "digits"), ("state", "active"), ("rollout", {"keepPrevious": "x"})]:
        assert list(validator.iter_errors({**good, "spec": {**good["spec"], path: value}})), path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "windlass_contract.schemas", "--folder", str(folder), *arguments],
        capture_output=True,
        text=True,
    )


def test_the_check_names_what_drifted_and_writing_mends_it(tmp_path: Path) -> None:
    assert len(write(tmp_path)) == len(DOCUMENTS)
    assert run(tmp_path, "--check").returncode == 0
    (tmp_path / "Manifest.json").write_text("{}\n")
    (tmp_path / "Decision.json").unlink()
    (tmp_path / "Gone.json").write_text("{}\n")
    checked = run(tmp_path, "--check")
    assert checked.returncode == 1
    assert [Path(line.split()[0]).name for line in checked.stdout.splitlines()] == [
        "Decision.json",
        "Gone.json",
        "Manifest.json",
    ]
    assert "run python -m windlass_contract.schemas" in checked.stdout
    assert run(tmp_path).returncode == 0
    assert run(tmp_path, "--check").stdout == ""
