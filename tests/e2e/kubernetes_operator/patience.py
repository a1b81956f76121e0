"""Waiting for what a cluster does: every look is a command, so they are fewer, and it takes longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

DEADLINE = 180.0
EVERY = 0.3


def wait_until(condition: Callable[[], Any], what: Callable[[], Any] = lambda: "") -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(EVERY)
    raise AssertionError(f"waited {DEADLINE} s in vain; last seen: {what()}")
