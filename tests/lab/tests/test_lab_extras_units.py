"""The extras and kubeconform's schemas, as far as they can be tried without a lab."""

import json

import pytest
from windlass_lab import extras, versions
from windlass_lab.errors import LabError
from windlass_lab.extras import Extras
from windlass_lab.testing.schemas import file_name, write_schemas


@pytest.fixture
def known():
    return versions.load()


def test_every_image_has_an_official_name_and_a_stand_in(known):
    folders = {folder.name for folder in (versions.ROOT / "stand-ins").iterdir()}
    assert folders == set(extras.IMAGES) == set(known.extra_images)
    assert {image.command for image in extras.IMAGES.values()} - {""} <= set(extras.commands(known))


def test_a_stand_in_is_built_on_the_labs_base_and_pulls_nothing(known):
    for folder in (versions.ROOT / "stand-ins").iterdir():
        lines = (folder / "Dockerfile").read_text().splitlines()
        assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE}"], folder.name
        assert lines[0].startswith("# Stands in for ")


def test_what_several_extras_need_is_made_once(home, known):
    steps = Extras(home, known, "built").steps(["sbom-scanner", "syft", "kubeconform"])
    titles = [step.name.split()[0] for step in steps]
    assert titles == ["syft", "docker/buildkit-syft-scanner:stable-1", "kubeconform"]


def test_where_images_are_pulled_nothing_is_built_for_them(home, known):
    assert [step.name for step in Extras(home, known, "system").steps(["registry"])] == ["registry:3"]


def test_a_command_of_the_machine_is_used_where_its_tools_are(home, known, monkeypatch, tmp_path):
    (tmp_path / "kubeconform").write_text("#!/bin/sh\n")
    (tmp_path / "kubeconform").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Extras(home, known, "system").command("kubeconform") == tmp_path / "kubeconform"
    assert Extras(home, known, "system").steps(["kubeconform"]) == []
    assert len(Extras(home, known, "built").steps(["kubeconform"])) == 1


def test_an_unknown_extra_is_named_with_those_that_are_known(home, known):
    with pytest.raises(LabError, match=r"no extra 'redis'; it has helm-unittest, kube-score"):
        Extras(home, known, "built").steps(["redis"])


# --- schemas -------------------------------------------------------------------------------------------------

DEFINITIONS = {
    "apps.Rope": {
        "type": "object",
        "properties": {
            "kind": {"type": "string"},
            "spec": {"$ref": "#/definitions/apps.RopeSpec"},
            "free": {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": True},
        },
        "x-kubernetes-group-version-kind": [{"group": "apps.example.org", "version": "v1", "kind": "Rope"}],
    },
    "apps.RopeSpec": {"type": "object", "properties": {"length": {"$ref": "#/definitions/api.Quantity"}}},
    "api.Quantity": {"type": "string"},
    "api.Other": {"type": "string"},
}


def test_a_schema_is_strict_and_holds_what_it_refers_to(tmp_path):
    assert write_schemas(lambda *_: json.dumps({"definitions": DEFINITIONS}), tmp_path) == 1
    schema = json.loads((tmp_path / "rope-apps-v1.json").read_text())
    assert schema["properties"]["apiVersion"] == {"const": "apps.example.org/v1"}
    assert schema["required"] == ["apiVersion", "kind"]
    assert schema["additionalProperties"] is False
    assert "additionalProperties" not in schema["properties"]["free"]
    assert set(schema["definitions"]) == {"apps.RopeSpec", "api.Quantity"}
    assert schema["definitions"]["apps.RopeSpec"]["additionalProperties"] is False
    assert schema["definitions"]["api.Quantity"] == {"type": ["string", "number"]}


@pytest.mark.parametrize(
    ("group", "kind", "name"),
    [("", "Service", "service-v1.json"), ("apps", "Deployment", "deployment-apps-v1.json")],
)
def test_a_schema_is_called_as_kubeconform_looks_for_it(group, kind, name):
    assert file_name(group, "v1", kind) == name
