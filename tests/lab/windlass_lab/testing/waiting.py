"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from windlass_lab.errors import CommandError

T = TypeVar("T")


def until(what: str, condition: Callable[[], T], timeout: float = 90, every: float = 0.3) -> T:
    """Asks `condition` until it gives something true, and gives that; a command that fails counts as "not yet".

    Raises `TimeoutError`, which says what was waited for and what was seen last.
    """
    deadline = time.monotonic() + timeout
    seen: Any = None
    while True:
        try:
            answer = condition()
        except CommandError as error:
            seen = error
        else:
            if answer:
                return answer
            seen = answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain until {what}; last seen: {str(seen)[:2000]}")
        time.sleep(every)
