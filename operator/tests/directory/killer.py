"""The command, in a process that kills itself at one of its writes: `KILL_AT` (from 1) and `KILL_WHEN`: `before` the
write, `between` its temporary file and the rename, or `after` it. Each write's file name goes to standard output.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

from windlass_operator.directory_driver import events, files, memory, statuses, store, tokens
from windlass_operator.main import main

AT = int(os.environ["KILL_AT"])
WHEN = os.environ["KILL_WHEN"]
numbers = itertools.count(1)


def wrap(write: Callable[..., None]) -> Callable[..., None]:
    def wrapped(path: Path, *arguments: object, **options: object) -> None:
        number = next(numbers)
        mine = number == AT
        print(f"{number} {path.parent.name}/{path.name}", flush=True)
        if mine and WHEN == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if mine and WHEN == "between":
            files.Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assign,misc]
        write(path, *arguments, **options)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)

    return wrapped


replacing = wrap(files.write_atomically)
for module in (store, memory, statuses, tokens):
    module.write_atomically = replacing  # type: ignore[attr-defined]
statuses.remove = wrap(files.remove)  # type: ignore[attr-defined]
events.append_line = wrap(files.append_line)  # type: ignore[attr-defined]
main()
