"""`windlass` on a cluster: the same commands as on a directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab


def test_rollouts_are_seen_and_steered_as_on_a_directory(stage) -> None:
    environment = os.environ | stage.namespace.cluster.environment | {"WINDLASS_NAMESPACE": stage.namespace.name}

    def windlass(*arguments: str, code: int = 0) -> str:
        command = [str(Path(sys.executable).with_name("windlass")), *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170)
        assert result.returncode == code, result.stderr
        return result.stdout + result.stderr

    assert "no ModelVersions in namespace" in windlass("get")
    stage.operator()
    stage.replica()
    stage.apply("m-1", 1)
    assert "Serving" in windlass("watch", "m-1", "--until", "Serving", "--timeout", "150")
    stage.apply("m-2", 2, rollout={"steps": [{"pause": {}}]})
    windlass("watch", "m-2", "--until", "Paused", "--timeout", "150")
    assert "commit it" in windlass("approve", "m-2", "--dry-run")
    assert "m-2 is" in windlass("approve", "m-2", "--wait", "--timeout", "60")
    windlass("watch", "m-2", "--until", "Serving", "--timeout", "60")
    table = windlass("get", "-o", "wide").splitlines()
    assert table[1].split()[:5] == ["m-2", "cats", "m", "2", "Serving"]
    assert json.loads(windlass("get", "m-2", "-o", "json"))["status"]["phase"] == "Serving"
    described = windlass("describe", "m-2")
    assert "approve" in described
    assert "Committed" in described
    windlass("undo", "m-2", "--wait", "--timeout", "60", "--reason", "too slow")
    stage.await_committed(1)
    windlass("clear", "m-2", "--wait", "--timeout", "60")
    assert "there is no ModelVersion 'm-9'" in windlass("undo", "m-9", code=1)
    assert "m-1" in windlass("watch", "--once")
