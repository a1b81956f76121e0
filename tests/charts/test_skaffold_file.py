"""skaffold.yaml: valid by Skaffold's published schema, with every profile, and about files that are there."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from windlass_testing.pages import ROOT

SCHEMA = json.loads((Path(__file__).parent / "skaffold-v4beta13.json").read_text())
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
PROFILES = {profile["name"]: profile for profile in CONFIG["profiles"]}


def with_profiles(*names: str) -> dict[str, Any]:
    """The configuration as Skaffold sees it with these profiles: their patches, in the file's order."""
    config = copy.deepcopy(CONFIG)
    for name, profile in PROFILES.items():
        for patch in profile["patches"] if name in names else []:
            *parents, last = patch["path"].strip("/").split("/")
            place: Any = config
            for key in parents:
                place = place[int(key)] if isinstance(place, list) else place[key]
            if patch["op"] == "replace":
                assert last in place, f"{name} replaces {patch['path']}, which isn't there"
            if patch["op"] == "remove":
                del place[last]
            else:
                place[last] = patch["value"]
    return config


@pytest.mark.parametrize("names", [(), ("kind",), ("minikube",), ("kind", "litert"), ("kind", "dev")])
def test_the_file_is_valid_with_its_profiles(names: tuple[str, ...]) -> None:
    config = with_profiles(*names)
    jsonschema.Draft7Validator(SCHEMA).validate(config)
    misspelt = copy.deepcopy(config)
    misspelt["deploy"]["helm"]["releases"][0]["chartPat"] = "charts"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(misspelt)


def test_dockerfiles_targets_charts_and_synchronized_files_are_there() -> None:
    for names in ((), ("litert",), ("dev",)):
        config = with_profiles(*names)
        for artifact in config["build"]["artifacts"]:
            text = (ROOT / artifact["docker"]["dockerfile"]).read_text()
            target = artifact["docker"].get("target")
            assert target is None or re.search(rf"^FROM .* AS {target}$", text, re.MULTILINE), target
            for rule in artifact.get("sync", {}).get("manual", []):
                assert list(ROOT.glob(rule["src"])), rule
                assert rule["src"].startswith(rule["strip"])
        for release in config["deploy"]["helm"]["releases"]:
            assert (ROOT / release["chartPath"] / "Chart.yaml").is_file()


def test_every_value_that_it_sets_is_one_of_the_charts() -> None:
    for names in (("kind",), ("kind", "dev")):
        for release in with_profiles(*names)["deploy"]["helm"]["releases"]:
            values = yaml.safe_load((ROOT / release["chartPath"] / "values.yaml").read_text())
            for name in {**release.get("setValues", {}), **release["setValueTemplates"]}:
                place = values
                for key in name.split("."):
                    place = place[key]


def test_ports_are_forwarded_from_services_that_the_charts_make() -> None:
    releases = {release["name"]: release["namespace"] for release in CONFIG["deploy"]["helm"]["releases"]}
    for forward in CONFIG["portForward"]:
        assert forward["namespace"] in releases.values()
        assert forward["resourceName"] in ("digits", "windlass-operator")
