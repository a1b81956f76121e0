"""For all tests: those of a file run in one process, one after the other; so do those that need the default ports."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files share what is expensive to start; programs started as the docs write them share the default ports."""
    for item in items:
        group = "default ports" if item.get_closest_marker("default_ports") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
