"""Puts the lab's fixtures at the disposal of the end-to-end tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))


def pytest_configure(config: pytest.Config) -> None:
    """The plugin is a module of its own, which the lab's tests take too; a second time does nothing."""
    config.pluginmanager.import_plugin("windlass_lab.fixtures")
