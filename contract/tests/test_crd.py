"""The CustomResourceDefinition is what the models say, in the form that the API server takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from windlass_contract import crd
from windlass_contract.model_version import ModelVersion, ModelVersionSpec
from windlass_contract.schemas.__main__ import GENERATED

REPOSITORY = Path(__file__).parents[2]
SCHEMA = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, inner in node.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for kind in ("items", "additionalProperties"):
        if isinstance(node.get(kind), dict):
            yield from nodes(node[kind], f"{path}[]")


@pytest.mark.parametrize("name", GENERATED)
def test_what_is_checked_in_is_what_the_models_say(name: str) -> None:
    assert (REPOSITORY / name).read_text() == GENERATED[name](), "run make schemas"


def test_it_is_small_enough_to_be_applied() -> None:
    assert len(crd.as_yaml().encode()) < crd.MAX_BYTES
    assert yaml.safe_load(crd.as_yaml()) == crd.definition()


@pytest.mark.parametrize(("path", "node"), list(nodes(SCHEMA)))
def test_every_node_is_structural(path: str, node: dict[str, Any]) -> None:
    assert isinstance(node["type"], str)
    assert not node.keys() & {"$ref", "anyOf", "oneOf", "allOf", "title", "$defs", "nullable"}
    assert not {"properties", "additionalProperties"} <= node.keys()


@pytest.mark.parametrize(
    ("path", "node"), [each for each in nodes(SCHEMA) if each[0].count(".") > 1 and not each[0].endswith("[]")]
)
def test_every_field_is_explained(path: str, node: dict[str, Any]) -> None:
    assert len(node["description"]) > 8
    assert node["description"].endswith((".", ")"))


def filled(node: dict[str, Any], value: Any) -> Any:
    """`value` with the defaults that the API server fills in."""
    if not isinstance(value, dict):
        return [filled(node["items"], each) for each in value] if isinstance(value, list) else value
    result = dict(value)
    for name, inner in node.get("properties", {}).items():
        if name not in result and "default" in inner:
            result[name] = inner["default"]
        if name in result:
            result[name] = filled(inner, result[name])
    return result


def test_the_defaults_are_those_of_the_models() -> None:
    spec = {
        "server": "digits",
        "model": "digits",
        "version": 2,
        "artifact": {"uri": "volume://"},
        "verify": {"samples": {"configMap": "accept"}},
    }
    stored = filled(SCHEMA["properties"]["spec"], spec)
    assert stored["rollout"] == {"mode": "InPlace", "keepPrevious": "10m", "progressDeadline": "10m"}
    assert stored["state"] == "Active"
    assert stored["verify"] == {"samples": {"configMap": "accept", "minScore": "100%"}, "signatureChange": "Refuse"}
    assert ModelVersionSpec.parse(stored, "stored").model_dump() == ModelVersionSpec.parse(spec, "given").model_dump()


def test_an_object_as_the_api_server_gives_it_is_a_model_version() -> None:
    value = {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": "digits-2", "namespace": "vision"},
        "spec": filled(
            SCHEMA["properties"]["spec"],
            {"server": "digits", "model": "digits", "version": 2, "artifact": {"uri": "volume://"}},
        ),
    }
    assert ModelVersion.parse(value, "the object").spec.version == 2


def test_each_rule_of_a_model_reaches_the_definition() -> None:
    rules = {
        path: node["x-kubernetes-validations"] for path, node in nodes(SCHEMA) if "x-kubernetes-validations" in node
    }
    assert {path: len(each) for path, each in rules.items()} == {
        ".spec": 3,
        ".spec.artifact": 2,
        ".spec.rollout.steps[]": 3,
        ".spec.verify.samples": 2,
    }


def test_a_definition_that_has_grown_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crd, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="shorten descriptions"):
        crd.as_yaml()
