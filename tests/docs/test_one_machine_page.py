"""The commands of docs/one-machine.md, in one shell as a reader has it, from an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from windlass_testing.pages import ROOT, commands, run_in_one_shell

pytestmark = [pytest.mark.default_ports, pytest.mark.timeout(400)]
PATIENCE_SECONDS = 240
"""The page itself waits for up to 60 s twice. In a fresh .venv each program compiles what it imports: beside other
tests that took 110 s where it takes 20 later."""


def test_every_command_of_the_page_works_as_written(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    printed = run_in_one_shell(commands(ROOT / "docs" / "one-machine.md"), tmp_path, PATIENCE_SECONDS)
    assert '"status"' in printed
