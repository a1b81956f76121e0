"""Puts the lab's plugin at the disposal of the tests below."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config: pytest.Config) -> None:
    """The plugin is a module of its own, so that other folders of tests can take it too; a second time does nothing."""
    config.pluginmanager.import_plugin("windlass_lab.fixtures")
