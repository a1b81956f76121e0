"""What is measured: each server's folder has a `server.toml`, which says how it is started and asked.

A peer's folder has its environment too: `requirements.in`, and `requirements.lock` made from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from windlass_testing.one_machine import free_port

from .models import BACKENDS
from .places import BENCH, MODELS, ROOT, WORK
from .processes import cpu_seconds, memory_mb, tree
from .workloads import Message, Wire

START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_UV = ROOT / ".tools" / "bin" / "uv"
LOG_LINES = 30


@dataclass(frozen=True)
class Route:
    """How a workload is asked for."""

    wire: Wire
    path: str


@dataclass(frozen=True)
class Variant:
    """One way of running a server."""

    server: str
    name: str
    title: str
    kind: str
    """`windlass`, `peer` or `limit`."""
    table: str
    """`same`: the model form and the decoder that all have in common. `documented`: as its own pages write the example.
    `limit`: no server of models."""
    folder: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]
    backends: tuple[str, ...]
    routes: Mapping[str, Route]
    packages: tuple[str, ...]
    checked: bool
    """Whether its answers are the model's."""
    quick: bool
    scaled: bool
    """Whether it decodes images at a fraction of their size, which makes its answers others."""

    @property
    def key(self) -> str:
        """`server/variant`."""
        return f"{self.server}/{self.name}"

    @property
    def python(self) -> Path:
        """That runs it: its own environment's, or ours."""
        if (self.folder / "requirements.lock").exists():
            return WORK / "environments" / self.server / "bin" / "python"
        return Path(sys.executable)


def variants() -> list[Variant]:
    """All there are, Windlass first. Raises `KeyError`, `ValueError` for a `server.toml` that can't be read."""
    files = sorted([*BENCH.glob("servers/*/server.toml"), *BENCH.glob("peers/*/server.toml")])
    found = [variant for file in files for variant in read_variants(file)]
    order = {"windlass": 0, "limit": 1, "peer": 2}
    return sorted(found, key=lambda each: (order[each.kind], each.key))


def read_variants(file: Path) -> list[Variant]:
    """Those of one `server.toml`."""
    document = tomllib.loads(file.read_text())
    found = []
    for name, given in document["variants"].items():
        routes = document.get("routes", {}) | given.get("routes", {})
        asked = given.get("workloads", list(routes))
        found.append(
            Variant(
                server=file.parent.name,
                name=name,
                title=given["title"],
                kind=document["kind"],
                table=given["table"],
                folder=file.parent,
                command=tuple(given["command"]),
                environment=given.get("environment", {}),
                backends=tuple(given.get("backends", BACKENDS)),
                routes={workload: Route(**route) for workload, route in routes.items() if workload in asked},
                packages=tuple(document.get("packages", ())),
                checked=given.get("checked", True),
                quick=given.get("quick", False),
                scaled=given.get("scaled", False),
            )
        )
    return found


def make_environment(variant: Variant) -> None:
    """Installs what a peer's lock names, unless it is there. Raises `RuntimeError`."""
    lock = variant.folder / "requirements.lock"
    if not lock.exists():
        return
    target = WORK / "environments" / variant.server
    mark, digest = target / "installed", hashlib.sha256(lock.read_bytes()).hexdigest()
    if mark.exists() and mark.read_text() == digest:
        return
    print(f"installing {variant.server}'s packages into {target.relative_to(ROOT)}", flush=True)
    python = str(target / "bin" / "python")
    for command in (
        ["venv", "--quiet", "--allow-existing", "--python", sys.executable, str(target)],
        ["pip", "sync", "--quiet", "--python", python, "--require-hashes", str(lock)],
    ):
        if subprocess.run([str(_UV), *command], check=False).returncode:
            raise RuntimeError(f"uv {command[0]} failed for {variant.server}; its output says why")
    mark.write_text(digest)


def versions(variant: Variant) -> dict[str, str]:
    """Of the packages that matter, as they are installed."""
    program = (
        "import json, sys; from importlib.metadata import version;"
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [str(variant.python), "-c", program, *variant.packages], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


class NotUpError(RuntimeError):
    """A server that didn't come up; the message has the end of its log."""


class Running:
    """A server that answers."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], start_seconds: float) -> None:
        self.url = url
        self.start_seconds = start_seconds
        self._process = process

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Used so far, by all its processes."""
        return cpu_seconds(self._process.pid)

    def memory_mb(self) -> float:
        """Of all its processes."""
        return memory_mb(self._process.pid)


@contextmanager
def started(
    variant: Variant, backend: str, log: Path, messages: Sequence[Message], models: Path = MODELS
) -> Iterator[Running]:
    """Runs a server until the block ends; it has answered each of `messages` with 200 when the block begins. Raises
    `NotUpError`."""
    port = free_port()
    names = {
        "python": str(variant.python), "port": str(port), "port1": str(free_port()), "port2": str(free_port()),
        "backend": backend, "models": str(models / backend),
        "state": str(log.with_suffix(".state")), "bin": str(variant.python.parent),
        "libraries": str(sysconfig.get_config_var("LIBDIR")),
    }  # fmt: skip
    environment = {
        # A clean one: what this run's own environment says is not to tell servers how to work.
        "PATH": f"{variant.python.parent}:/usr/bin:/bin",
        "HOME": os.environ.get("HOME", "/tmp"),  # noqa: S108 - only where there is none
        "LANG": "C.UTF-8", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "",
        "BENCH_PORT": str(port), "BENCH_BACKEND": backend, "BENCH_MODELS": str(models / backend),
        "BENCH_TABLE": variant.table, "BENCH_KERAS": str(models / "keras"),
        "PYTHONPATH": f"{BENCH / 'peers' / 'shared'}:{variant.folder}",
        **{key: value.format(**names) for key, value in variant.environment.items()},
    }  # fmt: skip
    if variant.kind != "peer":
        environment["PYTHONPATH"] = str(BENCH)
    command = [part.format(**names) for part in variant.command]
    log.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(names["state"], ignore_errors=True)
    url = f"http://127.0.0.1:{port}"
    with new_connections() as client, log.open("wb") as file:
        begun = time.monotonic()
        process = subprocess.Popen(
            command, cwd=variant.folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
        try:
            _wait(client, variant, url, process, log, messages)
            yield Running(url, process, time.monotonic() - begun)
        finally:
            _stop(process)


def new_connections() -> httpx.Client:
    """Asks each time over another one. Made before a server starts: making one reads all the system's certificates,
    which takes a processor for as long as a small server takes to start."""
    return httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), trust_env=False)


def _wait(
    client: httpx.Client,
    variant: Variant,
    url: str,
    process: subprocess.Popen[bytes],
    log: Path,
    messages: Sequence[Message],
) -> None:
    deadline = time.monotonic() + START_SECONDS
    left, said = list(messages), "nothing"
    while left:
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise NotUpError(
                f"{variant.key} doesn't come up: {left[0].path} answered {said}; the end of {log}:\n{tail}"
            )
        sent = left[0]
        try:
            answer = client.post(url + sent.path, content=sent.body, headers=sent.headers, timeout=START_SECONDS)
        except httpx.HTTPError as error:
            said = repr(error)  # it doesn't listen yet
        else:
            said = f"{answer.status_code} {answer.text[:300]}"
            if answer.status_code == 200:
                left.pop(0)
                continue
        time.sleep(0.02)  # between two looks: a server tells nobody that it is up


def _stop(process: subprocess.Popen[bytes]) -> None:
    everyone = tree(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Some leave processes behind: the next server is to have the machine for itself.
    for pid in everyone[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def describe(variant: Variant) -> dict[str, Any]:
    """For the results."""
    return {
        "title": variant.title, "kind": variant.kind, "table": variant.table, "checked": variant.checked,
        "versions": versions(variant),
    }  # fmt: skip
