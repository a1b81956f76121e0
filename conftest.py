"""For all tests: those of a file run in one process, one after the other; so do those that need the default ports.

The lab's fixtures are at the disposal of all.
"""

from __future__ import annotations

import signal

import pytest

pytest_plugins = ["windlass_lab.fixtures"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A run in a shell's background is deaf to Ctrl-C, and so would be all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST_FIRST = (
    "/tests/docs/",
    "/tests/one_machine/",
    "/cli/",
    "/app/tests/predictions/",
    "/app/tests/replica/",
    "/operator/",
)


@pytest.hookimpl(tryfirst=True)  # xdist looks at the marks in this hook, too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files share what is expensive to start; programs started as the docs write them share the default ports.

    Those that take long begin first, so that no process is left with them at the end.
    """
    items.sort(key=lambda item: next((place for place, part in enumerate(LONGEST_FIRST) if part in str(item.path)), 9))
    for item in items:
        group = "default ports" if item.get_closest_marker("default_ports") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Ends a run whose groups pytest-xdist would take apart: it finds them in the tests' names."""
    apart = [item for item in session.items if "@" not in item.nodeid]
    if getattr(session.config.option, "loadgroup", False) and apart:
        raise pytest.UsageError("pytest-xdist doesn't keep the tests of a file together with this pytest; pin another")
