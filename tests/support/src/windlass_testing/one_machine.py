"""Windlass on one machine: real replicas and a real directory driver, in processes of their own, as users run them."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from windlass_contract.control import CONTROL_PORT, OPERATOR_METRICS_PORT, SERVER_METRICS_PORT, SERVER_PORT
from windlass_contract.document import load_yaml

BIN = Path(sys.executable).parent


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def port_or_free(port: int) -> int:
    """This TCP port if nobody listens on it, else a free one."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return free_port()
    return port


def wait_until(what: str, condition: Callable[[], Any], timeout: float = 90, last_seen: Callable[[], Any] = str) -> Any:
    """Waits until `condition` gives something true, and gives that. Raises `TimeoutError` with what was seen last."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain until {what}; last seen: {last_seen()}")
        time.sleep(0.02)


@dataclass
class Process:
    """A program of ours with its log kept in a file."""

    name: str
    arguments: list[str]
    log: Path
    popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; its log goes on where it was."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                process_group=0,  # Ctrl-C reaches the test alone; see also the replica's launcher
            )

    @property
    def running(self) -> bool:
        """Whether it was started and hasn't ended."""
        return self.popen is not None and self.popen.poll() is None

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 60) -> int:
        """Sends a signal, waits for the end and gives the exit code."""
        assert self.popen is not None, f"{self.name} was never started"
        if self.popen.poll() is None:
            self.popen.send_signal(how)
        return self.popen.wait(timeout)

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Replica:
    """One `windlass-server` and where to ask it."""

    name: str
    process: Process
    url: str
    metrics_url: str

    def get(self, path: str) -> httpx.Response:
        """GET; raises httpx's errors when nobody answers."""
        return httpx.get(self.url + path, timeout=30)

    def ready(self) -> bool:
        """Whether it may get traffic."""
        try:
            return self.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def predict(self, model: str, instances: list[Any], suffix: str = "") -> httpx.Response:
        """TensorFlow Serving's predict; `suffix`: e.g. `/versions/3`."""
        return httpx.post(f"{self.url}/v1/models/{model}{suffix}:predict", json={"instances": instances}, timeout=30)


@dataclass
class OneMachine:
    """A folder with models, ModelVersions and state, and the processes that work on it."""

    folder: Path
    server: str = "one"
    default_ports: bool = False
    """The operator and the first replica have the ports that users find in the docs, where they are free."""
    replicas: dict[str, Replica] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.models = self.folder / "models"
        self.directory = self.folder / "versions"
        self.state = self.directory / ".windlass"
        self.logs = self.folder / "logs"
        for each in (self.models, self.directory, self.logs):
            each.mkdir(parents=True, exist_ok=True)
        self.control_port = self._port(CONTROL_PORT)
        self.operator_metrics_port = self._port(OPERATOR_METRICS_PORT)
        self._statuses: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {}
        self.operator = self.new_operator()

    # --- processes ---

    def new_operator(self, name: str = "operator", program: list[str] | None = None) -> Process:
        """A directory driver, not started. `program` instead of `windlass-operator`."""
        return Process(
            name,
            [
                *(program or [str(BIN / "windlass-operator")]),
                *("directory", str(self.directory), "--server", self.server, "--port", str(self.control_port)),
                *("--metrics-port", str(self.operator_metrics_port), "--log-format", "json"),
            ],
            self.logs / f"{name}.log",
        )

    def add_replica(
        self, name: str = "replica-1", *extra: str, managed: bool = True, within: Sequence[str] = ()
    ) -> Replica:
        """Starts a replica. `managed`: it follows the operator. `within`: a command that runs the one that follows it,
        as `ControlGroup.command` is."""
        port, metrics_port = self._port(SERVER_PORT), self._port(SERVER_METRICS_PORT)
        following = [
            *("--operator", f"http://127.0.0.1:{self.control_port}"),
            *("--control-token-file", str(self.state / "tokens" / self.server)),
        ]
        process = Process(
            name,
            [
                *within,
                str(BIN / "windlass-server"),
                *("--server", self.server, "--replica", name, "--models", str(self.models)),
                *("--port", str(port), "--metrics-port", str(metrics_port)),
                *("--state-dir", str(self.folder / "state" / name), "--log-format", "json"),
                *(following if managed else []),
                *extra,
            ],
            self.logs / f"{name}.log",
        )
        replica = Replica(name, process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}")
        self.replicas[name] = replica
        process.start()
        return replica

    def _port(self, default: int) -> int:
        return port_or_free(default) if self.default_ports and not self.replicas else free_port()

    def stop(self) -> None:
        """Ends everything; replicas first, politely."""
        processes = [*(replica.process for replica in self.replicas.values()), self.operator]
        for process in processes:
            if process.running:
                process.popen.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        for process in processes:
            if process.popen is not None:
                try:
                    process.popen.wait(60)
                except subprocess.TimeoutExpired:
                    process.popen.kill()
                    process.popen.wait()

    # --- ModelVersions ---

    def document(self, model: str, version: int, digest: str, **spec: Any) -> dict[str, Any]:
        """A ModelVersion as a dictionary; `spec` adds to or replaces the fields below `spec`."""
        return {
            "apiVersion": "windlass.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": f"{model.replace('_', '-')}-{version}"},
            "spec": {
                "server": self.server,
                "model": model,
                "version": version,
                "artifact": {"uri": "volume://", "digest": digest},
                **spec,
            },
        }

    def apply(self, document: dict[str, Any], file: str | None = None) -> str:
        """Writes the ModelVersion's file at once, as `mv` does, and gives the object's name."""
        name = str(document["metadata"]["name"])
        path = self.directory / (file or f"{name}.yaml")
        part = path.with_name(f".{path.name}.part")
        part.write_text(yaml.safe_dump(document, sort_keys=False))
        part.replace(path)
        return name

    def status(self, name: str) -> dict[str, Any]:
        """The status that the driver wrote; empty when there is none."""
        path = self.state / "status" / f"{name}.yaml"
        try:
            found = path.stat()
        except FileNotFoundError:
            return {}
        # Whoever waits asks fifty times a second, and reading YAML would take a fifth of a processor from what is
        # measured meanwhile.
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._statuses.get(name, (None,))[0] != stamp:
            self._statuses[name] = stamp, (load_yaml(path.read_bytes(), path.name) or {}).get("status", {})
        return copy.deepcopy(self._statuses[name][1])

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """One condition of a ModelVersion; empty when there is none."""
        return next((each for each in self.status(name).get("conditions", []) if each["type"] == kind), {})

    def wait_for_phase(self, name: str, *phases: str, timeout: float = 90) -> dict[str, Any]:
        """Waits until the status' phase is one of these, and gives the status."""
        wait_until(
            f"{name} is {' or '.join(phases)}",
            lambda: self.status(name).get("phase") in phases,
            timeout,
            lambda: (
                f"{self.status(name)}\n--- operator\n{self.operator.tail()}\n"
                + "\n".join(f"--- {replica.name}\n{replica.process.tail()}" for replica in self.replicas.values())
            ),
        )
        return self.status(name)

    def wait_until_ready(self, name: str, timeout: float = 90) -> dict[str, Any]:
        """Waits for the condition Ready: committed, and every replica said that it answers by it."""
        wait_until(
            f"{name} is Ready",
            lambda: any(
                each["type"] == "Ready" and each["status"] == "True" for each in self.status(name).get("conditions", ())
            ),
            timeout,
            lambda: f"{self.status(name)}\n--- operator\n{self.operator.tail()}",
        )
        return self.status(name)

    def events(self) -> list[dict[str, Any]]:
        """All Events that the driver wrote."""
        path = self.state / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def one_machine(folder: Path, replicas: int = 1, server: str = "one") -> Iterator[OneMachine]:
    """An operator and some replicas, running; everything is ended afterwards."""
    machine = OneMachine(folder, server)
    try:
        machine.operator.start()
        token = machine.state / "tokens" / server
        wait_until("the operator made the control token", token.exists, last_seen=machine.operator.tail)
        for number in range(1, replicas + 1):
            machine.add_replica(f"replica-{number}")
        yield machine
    finally:
        machine.stop()
