"""The commands of docs/kubernetes-operator.md, in one shell as a reader has it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from windlass_testing.pages import ROOT, commands

pytestmark = pytest.mark.lab


def test_every_command_of_the_page_works_as_written(stage, tmp_path: Path) -> None:
    stage.operator()
    stage.replica("r1", "digits")
    for version in (1, 2):
        value = stage.model_version(f"digits-{version}", version, server="digits")
        value["spec"]["model"] = "digits"
        stage.namespace.apply(value)
        stage.await_phase(f"digits-{version}", "Serving")
    config = tmp_path / "reader.yaml"
    config.write_text(stage.namespace.cluster.kubectl("config", "view", "--raw", "--minify"))
    environment = os.environ | stage.namespace.cluster.environment | {"KUBECONFIG": str(config)}
    first = f"kubectl config set-context --current --namespace={stage.namespace.name}"
    script = "\n".join(["set -eux -o pipefail", first, *commands(ROOT / "docs" / "kubernetes-operator.md")])
    result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "How long the version before stays resident" in result.stdout
    assert stage.status("digits-2")["decisions"][0]["id"] == "back-1"
