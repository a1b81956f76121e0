"""docs/artifacts.md: its commands for one machine, as written; those for a cluster name what there is.

What they do on a cluster: tests/e2e/test_artifacts.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from windlass_contract.artifact import read_manifest
from windlass_contract.failures import Reason
from windlass_contract.model_version import ModelVersionSpec
from windlass_operator.engine.desired import unsupported
from windlass_server.fetching.settings import FetcherSettings
from windlass_testing.models import affine_tflite
from windlass_testing.pages import ROOT, commands, run_in_one_shell

PAGE = ROOT / "docs" / "artifacts.md"
TEXT = PAGE.read_text()
OF_A_CLUSTER = ("kubectl ", "helm ", "windlass push ")


@pytest.mark.default_ports
@pytest.mark.timeout(300)
def test_every_command_for_one_machine_works_as_written(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    digest = read_manifest(affine_tflite(tmp_path / "published", "digits", 1, 2.0, 0.0)).digest
    document = {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": "digits-1"},
        "spec": {
            "server": "digits",
            "model": "digits",
            "version": 1,
            "artifact": {"uri": "volume://", "digest": digest},
        },
    }
    (tmp_path / "digits-1.yaml").write_text(yaml.safe_dump(document))
    written = [command for command in commands(PAGE) if not command.startswith(OF_A_CLUSTER)]
    printed = run_in_one_shell(written, tmp_path, 240)
    assert "try/models/digits/1/manifest.json" in printed


def test_what_is_typed_for_a_cluster_is_there() -> None:
    typed = [command for command in commands(PAGE) if command.startswith(OF_A_CLUSTER)]
    (push,) = [command for command in typed if command.startswith("windlass ")]
    shown = subprocess.run(
        [sys.executable, "-m", "windlass_cli.main", "push", "--help"], capture_output=True, text=True, timeout=60
    ).stdout
    for option in re.findall(r"--[a-z-]+", push):
        assert option in shown
    values, version = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    import jsonschema

    schema = json.loads((ROOT / "charts" / "windlass-server" / "values.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(values), schema)
    spec = yaml.safe_load(version)["spec"]
    spec["artifact"]["digest"] = f"sha256:{'0' * 64}"
    spec |= {"server": "digits", "model": "digits", "version": 2}
    assert unsupported(ModelVersionSpec.model_validate(spec)) == []


def test_settings_and_reasons_of_the_page_are_ours() -> None:
    known = {f"--{name.replace('_', '-')}" for name in FetcherSettings.model_fields}
    rows = re.findall(r"^\| (`--[^|]*) \|", TEXT, re.MULTILINE)
    assert {option for row in rows for option in re.findall(r"--[a-z0-9-]+", row)} <= known
    section = TEXT[TEXT.index("### When it doesn't come") :]
    shown = {
        name for row in re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE) for name in re.findall("`(.*?)`", row)
    }
    assert shown - {"Fetching"} <= {str(reason) for reason in Reason}
    assert {"NoFetcher", "FetchDenied", "FetchNotAllowed", "FetchFailed", "NotFound"} <= shown
