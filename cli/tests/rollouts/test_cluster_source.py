"""What is said when kubectl can't do what it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def get(namespace: str, folder: Path, script: str | None) -> subprocess.CompletedProcess[str]:
    """`windlass get` where `kubectl` is a program of our own, or none."""
    if script is not None:
        (folder / "kubectl").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "kubectl").chmod(0o755)
    command = [sys.executable, "-m", "windlass_cli.main", "get", "--namespace", namespace]
    environment = {**os.environ, "PATH": f"{folder}:/bin" if script is not None else str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "kubectl isn't on the PATH"),
        ("echo 'error: You must be logged in' >&2; exit 1", "You must be logged in"),
        ("echo nonsense", "gave something else than a list"),
        ("echo '{}'", "gave something else than a list"),
    ],
)
def test_what_kubectl_says_reaches_the_person(tmp_path: Path, script: str | None, said: str) -> None:
    result = get("vision", tmp_path, script)
    assert result.returncode == 1, result.stderr
    assert said in " ".join(result.stderr.split())


def test_a_namespace_that_can_be_none_is_refused_before_kubectl_is_asked(tmp_path: Path) -> None:
    result = get("No_Name", tmp_path, "touch /asked")
    assert result.returncode == 2
    assert "No_Name" in result.stderr
