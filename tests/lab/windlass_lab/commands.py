"""Commands: run, with their output kept, and with a sign of life while they take long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from windlass_lab.errors import CommandError, LabError
from windlass_lab.home import duration

SIGN_OF_LIFE = 30.0
"""Seconds between two lines of a step that takes long."""


def run(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    given: str | bytes | None = None,
    timeout: float | None = None,
) -> str:
    """Runs a command to its end and gives its standard output. Raises `CommandError` on any other code than 0."""
    listed = [str(argument) for argument in arguments]
    data = given.encode() if isinstance(given, str) else given
    try:
        done = subprocess.run(
            listed,
            env=os.environ | environment if environment else None,
            cwd=folder,
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"`{listed[0]}` isn't on the PATH") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(
            listed, -1, f"no end after {timeout:g} s\n{(error.output or b'').decode(errors='replace')}"
        ) from error
    stdout = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise CommandError(listed, done.returncode, stdout + done.stderr.decode(errors="replace"))
    return stdout


def succeeds(*arguments: str | Path, environment: Mapping[str, str] | None = None, timeout: float = 30) -> bool:
    """Whether a command ends with 0, in time."""
    try:
        run(*arguments, environment=environment, timeout=timeout)
    except LabError:
        return False
    return True


def run_long(
    *arguments: str | Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> None:
    """Runs a command that takes long: its output goes to the end of `log`.

    Every half minute a line says that it goes on. Interrupted, it takes its children with it. Raises `CommandError`
    with the log's end.
    """
    listed = [str(argument) for argument in arguments]
    began = time.monotonic()
    with log.open("ab") as out:
        start = out.tell()
        process = None
        try:
            with _interrupts_held():
                process = subprocess.Popen(
                    listed,
                    env=os.environ | environment if environment else None,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            while True:
                try:
                    code = process.wait(SIGN_OF_LIFE)
                    break
                except subprocess.TimeoutExpired:
                    sys.stderr.write(f"      … {duration(time.monotonic() - began)}, log: {log}\n")
        except BaseException:
            if process is not None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            raise
    if code != 0:
        with log.open("rb") as written:
            written.seek(start)
            raise CommandError(listed, code, written.read().decode(errors="replace"))


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect at the end of it: in the midst of starting a child they would leave it behind.

    By handlers and not by the mask, which the child would inherit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal interrupts it here
        return
    came: list[int] = []
    before = {
        each: signal.signal(each, lambda number, _: came.append(number)) for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came:
            signal.raise_signal(number)
