"""The commands of docs/one-machine.md, in one shell as a reader has it, from an empty folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from windlass_testing.pages import ROOT, commands

pytestmark = [pytest.mark.default_ports, pytest.mark.timeout(300)]
PATIENCE_SECONDS = 240
"""The page itself waits for up to 60 s twice. In a fresh .venv each program compiles what it imports: beside other
tests that took 110 s where it takes 20 later."""


def test_every_command_of_the_page_works_as_written(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    script = "set -eux\n" + "\n".join(commands(ROOT / "docs" / "one-machine.md")) + "\n"
    output = tmp_path / "output.txt"
    with output.open("wb") as file:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        code = shell.wait(PATIENCE_SECONDS)
        logs = "\n".join(path.read_text() for path in sorted((tmp_path / "try").glob("*.log")))
        assert code == 0, f"{output.read_text()}\n{logs}"
        assert '"status"' in output.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):  # what it left running ended by itself
            os.killpg(shell.pid, signal.SIGTERM)
