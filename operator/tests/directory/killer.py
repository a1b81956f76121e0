"""Starts the command again and again, by fork from one process that has it imported: that saves a second each time.

A line on standard input asks for one: `{"argv": […], "log": path, "writes": path, "at": number, "when": word}`; lines
on standard output answer `{"pid": …}` and, when it has ended, `{"ended": pid, "code": …}`. The command then kills
itself at its write number `at` (from 1): `before` the write, `between` its temporary file and the rename, or `after`
it. The name of each file that it writes goes to `writes`.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import windlass_operator.engine.reconcile
from windlass_operator.directory_driver import events, files, memory, statuses, store, tokens
from windlass_operator.main import main


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(order: dict[str, Any]) -> None:
    """The command, wrapped; does not return."""
    writes = os.open(order["writes"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    numbers = itertools.count(1)

    def wrap(write: Callable[..., None]) -> Callable[..., None]:
        def wrapped(target: Path | int, *arguments: object, **options: object) -> None:
            number = next(numbers)
            path = Path(os.readlink(f"/proc/self/fd/{target}")) if isinstance(target, int) else target  # noqa: PTH115
            os.write(writes, f"{number} {path.parent.name}/{path.name}\n".encode())
            if number != order["at"]:
                write(target, *arguments, **options)
                return
            if order["when"] == "before":
                die()
            if order["when"] == "between":
                files.Path.rename = die  # type: ignore[method-assign,assign]
            write(target, *arguments, **options)
            die()

        return wrapped

    replacing = wrap(files.write_atomically)
    for module in (store, memory, statuses, tokens):
        module.write_atomically = replacing  # type: ignore[attr-defined]
    statuses.remove = wrap(files.remove)  # type: ignore[attr-defined]
    events.append_line = wrap(files.append_line)  # type: ignore[attr-defined]
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["windlass-operator", *order["argv"]]
    code: Any = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    finally:
        os._exit(code if isinstance(code, int) else 1)


def serve() -> None:
    """Until standard input ends."""
    pending = b""
    while True:
        if select.select([0], [], [], 0.05)[0]:
            data = os.read(0, 65536)
            if not data:
                return
            pending += data
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            pid = os.fork()
            if pid == 0:
                run(json.loads(line))
            say(pid=pid)
        while (ended := reap()) is not None:
            say(ended=ended[0], code=os.waitstatus_to_exitcode(ended[1]))


def reap() -> tuple[int, int] | None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def say(**fields: int) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


assert windlass_operator.engine.reconcile
serve()
