"""The operator's command; each SIGUSR1 ends one of kopf's watchers, as an error in its stream does."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from windlass_operator.kubernetes_driver import watching
from windlass_operator.main import main

running: list[watching.Watch] = []
start = watching.Watch.__init__


def remember(self: watching.Watch, *arguments: Any, **options: Any) -> None:
    running.append(self)
    start(self, *arguments, **options)


def lose(*_: Any) -> None:
    loop = running[-1]._inner
    assert loop is not None
    watchers = [task for task in asyncio.all_tasks(loop) if task.get_name().startswith("watcher for modelversions")]
    loop.call_soon_threadsafe(watchers[0].cancel)


watching.Watch.__init__ = remember  # type: ignore[method-assign]
watching.START_SECONDS = 1.0
signal.signal(signal.SIGUSR1, lose)
main()
