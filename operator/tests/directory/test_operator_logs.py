"""What goes wrong is logged with its traceback, and without what variables held."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import structlog
from windlass_operator.logs import configure_logs
configure_logs({form!r}, "info")
token = "hunter" + "2"
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("test").exception("broken")
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_local_variables(form: str) -> None:
    program = [sys.executable, "-c", PROGRAM.format(form=form)]
    said = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60).stderr
    assert "ZeroDivisionError" in said
    assert "hunter2" not in said
