"""Runs a program of `packing.programs` in a process of its own, which may die, and hands on what it tells."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windlass_cli.errors import UserError
from windlass_cli.terminal import Progress

_LOG_LINES = 15


@dataclass
class Told:
    """What a program told."""

    result: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def require(package: str, what: str) -> None:
    """Raises `UserError` with the command to install when a package is missing."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{what} needs {package}, which is not installed: pip install 'windlass-cli[convert]'")


def run_program(name: str, request: dict[str, Any], progress: Progress, what: str) -> Told:
    """Raises `UserError` when it fails: with what it said, or with the end of its output when it died without a word.
    It is ended when this one is interrupted."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as log, os.fdopen(reading, encoding="utf-8") as lines:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program, by this interpreter
                [sys.executable, "-m", f"windlass_cli.packing.programs.{name}", str(writing)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                env=_environment(),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            told = Told({})
            error = ""
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(json.dumps(request).encode())
            for line in lines:
                for kind, value in json.loads(line).items():
                    if kind == "step":
                        progress.step(f"{what}: {value}")
                    elif kind == "note":
                        told.notes.append(value)
                    elif kind == "result":
                        told.result = value
                    elif kind == "error":
                        error = value
            code = process.wait()
        finally:
            # It has a session of its own, and what it forked is in there, too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if error:
            raise UserError(f"{what}: {error}")
        if code != 0:
            log.seek(0)
            tail = "\n".join(log.read().decode(errors="replace").splitlines()[-_LOG_LINES:])
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise UserError(f"{what}: the process with the model ended {how}. The last it wrote:\n{tail}")
    return told


def _environment() -> dict[str, str]:
    """The same model gives the same bytes whatever the hash seed of this process; no GPU is needed to pack."""
    return {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH", "")])]
        ),
    }
