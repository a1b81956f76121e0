"""Models built once: kept in a folder of the user's under the temporary folder, shared by all test processes."""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

_lock = threading.Lock()
_builder: subprocess.Popen[str] | None = None


def built(kind: str, **parameters: Any) -> Path:
    """A folder with the files of that model; not to be changed, copy from it. Raises `RuntimeError`."""
    source = Path(__file__).with_name("building.py").read_bytes()
    framework = version("tensorflow-cpu") if sys.platform == "linux" and os.uname().machine == "x86_64" else ""
    key = json.dumps([kind, parameters, hashlib.sha256(source).hexdigest(), framework], sort_keys=True)
    store = _store()
    folder = store / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if folder.exists():
        return folder
    with _lock, (store / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            fresh = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=store))
            try:
                _build({"kind": kind, "parameters": parameters, "folder": str(fresh)})
                fresh.rename(folder)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _store() -> Path:
    store = Path(tempfile.gettempdir()) / f"windlass-testing-{os.getuid()}"
    store.mkdir(mode=0o700, exist_ok=True)
    if store.stat().st_uid != os.getuid():
        raise RuntimeError(f"{store} belongs to someone else; remove it or set TMPDIR")
    return store


def _build(request: dict[str, Any]) -> None:
    global _builder  # noqa: PLW0603 - one builder per test process: importing TensorFlow costs seconds
    if _builder is None:
        _builder = subprocess.Popen(
            [sys.executable, "-m", "windlass_testing.building"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # No compute device of any kind, and no chatter.
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        atexit.register(_end, _builder)
    assert _builder.stdin is not None
    assert _builder.stdout is not None
    _builder.stdin.write(json.dumps(request) + "\n")
    _builder.stdin.flush()
    answer = _builder.stdout.readline().strip()
    if answer != "ok":
        raise RuntimeError(f"building {request['kind']} failed: {answer or 'the builder died'}")


def _end(builder: subprocess.Popen[str]) -> None:
    builder.kill()
    for stream in (builder.stdin, builder.stdout):
        if stream is not None:
            stream.close()
    builder.wait()
