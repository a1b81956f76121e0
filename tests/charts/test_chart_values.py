"""The charts' values: what is generated from their comments, and that the numbers of health are the contract's."""

from __future__ import annotations

import importlib.util
import json
import re
from types import ModuleType
from typing import Any

import pytest
import yaml

from windlass_contract.health import HEALTH
from windlass_testing.pages import ROOT

CHARTS = sorted(path.parent for path in (ROOT / "charts").glob("*/Chart.yaml"))


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("charts_generate", ROOT / "charts" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = _generator()


def _values(chart: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / "charts" / chart / "values.yaml").read_text())
    return values


def test_the_numbers_of_health_are_the_contracts() -> None:
    words = {re.sub("_(.)", lambda m: m[1].upper(), name): number for name, number in HEALTH.model_dump().items()}
    assert _values("windlass-server")["health"] == words


def test_the_state_folder_holds_more_than_the_predictions_that_are_kept() -> None:
    values = _values("windlass-server")
    assert int(values["state"]["sizeLimit"].removesuffix("Gi")) * 2**30 > values["predictions"]["maxBytes"]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_every_default_is_allowed_by_the_schema_and_nothing_else_is(chart: Any) -> None:
    import jsonschema

    schema = json.loads((chart / "values.schema.json").read_text())
    values = _values(chart.name)
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values, schema)
    for file in (chart / "ci").glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(file.read_text()), schema)
    for path, node in _maps(values, schema):
        misspelt = json.loads(json.dumps(values))
        place = misspelt
        for key in path:
            place = place[key]
        place["mispelled"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(misspelt, schema)
        assert node["additionalProperties"] is False


def _maps(values: Any, schema: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every map of named values, with its schema."""
    if not isinstance(values, dict) or "properties" not in schema:
        return []
    found = [(path, schema)]
    for key, value in values.items():
        found += _maps(value, schema["properties"][key], (*path, key))
    return found


def test_chart_and_image_have_the_packages_version() -> None:
    import tomllib

    for chart, part in (("windlass-operator", "operator"), ("windlass-server", "app")):
        version = tomllib.loads((ROOT / part / "pyproject.toml").read_text())["project"]["version"]
        about = yaml.safe_load((ROOT / "charts" / chart / "Chart.yaml").read_text())
        assert about["appVersion"] == version


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("a: 1\n", "a has no description: write one above it, beginning with # --"),
        ("# -- Things\na: []\n", "a is a list: say what may be in it with # @schema {items: …}"),
        ("# -- Things\na: {}\n", "a is an empty map: say what may be in it with # @schema {additionalProperties: …}"),
        ("# -- Nothing\na: null\n", "a is null: say its type with # @schema {type: …}"),
        ("a:\n  # -- Inner\n  b: 1\n  c: 2\n", "a.c has no description"),
    ],
)
def test_a_value_that_says_too_little_is_refused_with_the_remedy(text: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"values.yaml: {remedy}")):
        generate.read(text, "values.yaml")


def test_what_is_in_an_open_map_is_no_value_of_its_own() -> None:
    text = "# -- Any\n# @schema {additionalProperties: true}\na:\n  b: 1\n# -- A name,\n# on two lines\nc: x\n"
    values = generate.read(text, "values.yaml")
    assert [value.path for value in values] == [("a",), ("c",)]
    assert values[1].description == "A name, on two lines"
    schema = generate.schema(values, "chart")["properties"]
    assert schema["a"] == {"description": "Any", "type": "object", "additionalProperties": True}
    assert schema["c"] == {"description": "A name, on two lines", "type": "string"}


def test_no_chart_has_a_secret_or_a_name_of_a_registry_in_it() -> None:
    for chart in CHARTS:
        values = _values(chart.name)
        assert "/" not in values["image"]["repository"]
        for template in (chart / "templates").glob("**/*.yaml"):
            assert not re.search(r"^kind: Secret$", template.read_text(), re.MULTILINE), template
