"""The real command in a process of its own, a folder of ModelVersions, and replicas that follow the protocol."""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from windlass_contract.canonical import digest_of_bytes
from windlass_testing.following import DEADLINE, Replica, wait_until

_NUMBERS = itertools.count(1)


def digest(text: str) -> str:
    return digest_of_bytes(text.encode())


class Workspace:
    """A directory of ModelVersions and the driver's state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "versions"
        self.folder.mkdir()
        self.state = folder / "state"

    def write(self, name: str, version: int, *, file: str = "", server: str = "cats", **spec: Any) -> Path:
        """A ModelVersion file, put there as careful people do."""
        value = {
            "apiVersion": "windlass.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": name},
            "spec": {
                "server": server,
                "model": "m",
                "version": version,
                "artifact": {"uri": "volume://m", "digest": digest(f"files of {version}")},
                **spec,
            },
        }
        path = self.folder / (file or f"{name}.yaml")
        self.replace(path, yaml.safe_dump(value))
        return path

    def replace(self, path: Path, text: str) -> None:
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(text)
        temporary.replace(path)

    def decide(self, name: str, action: str, version: int, number: int = 1, **fields: Any) -> None:
        spec = {
            "id": f"d{number}",
            "action": action,
            "server": "cats",
            "model": "m",
            "version": version,
            "digest": digest(f"files of {version}"),
            "at": f"2030-01-01T00:00:{number:02}Z",
            **fields,
        }
        value = {"apiVersion": "windlass.dev/v1alpha1", "kind": "Decision", "metadata": {"name": name}, "spec": spec}
        self.replace(self.folder / f"{name}.d{number}.decision.yaml", yaml.safe_dump(value))

    def durable(self, server: str = "cats") -> dict[str, Any]:
        """The durable object; empty: there is none."""
        try:
            return json.loads((self.state / "servers" / f"{server}.json").read_bytes())
        except FileNotFoundError:
            return {}

    def model(self) -> dict[str, Any]:
        """The plan of the model `m`; empty: there is none."""
        plan = self.durable().get("plan") or {}
        return plan.get("models", {}).get("m", {})

    def committed(self) -> int | None:
        return self.model().get("committed")

    def status(self, name: str) -> dict[str, Any]:
        """The status of a ModelVersion; empty: there is none."""
        try:
            return yaml.safe_load((self.state / "status" / f"{name}.yaml").read_text())["status"]
        except FileNotFoundError:
            return {}

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        return next((each for each in self.status(name).get("conditions", []) if each["type"] == kind), {})

    def events(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in (self.state / "events.jsonl").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def token(self, server: str = "cats") -> str:
        return (self.state / "tokens" / server).read_text().strip()

    def await_committed(self, version: int) -> None:
        wait_until(lambda: self.committed() == version, lambda: (self.durable(), self.events()[-3:]))

    def await_phase(self, name: str, phase: str) -> None:
        wait_until(lambda: self.status(name).get("phase") == phase, lambda: (self.status(name), self.events()[-3:]))


class Forked:
    """A process that `Nursery` started; like `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float = DEADLINE) -> int:  # noqa: ARG002 - as Popen's
        wait_until(lambda: self.returncode is not None)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)


class Nursery:
    """The process of `killer.py`, which starts operators that die at one of their writes."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("killer.py")
        self._process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._lock = threading.Lock()
        self._started: queue.Queue[Forked] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, order: dict[str, Any]) -> Forked:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            return self._started.get(timeout=DEADLINE)

    def close(self) -> None:
        self._process.communicate()
        self._reader.join(DEADLINE)

    def _read(self) -> None:
        assert self._process.stdout is not None
        alive: dict[int, Forked] = {}
        for line in self._process.stdout:
            said = json.loads(line)
            if "pid" in said:
                alive[said["pid"]] = Forked(said["pid"])
                self._started.put(alive[said["pid"]])
            else:
                alive.pop(said["ended"]).returncode = said["code"]


class Operator:
    """One process of the command."""

    def __init__(self, workspace: Workspace, flags: tuple[str, ...], start: Callable[[list[str], Path], Any]) -> None:
        number = next(_NUMBERS)
        self.log_file = workspace.folder.with_name(f"operator-{number}.log")
        arguments = ["directory", str(workspace.folder), "--state", str(workspace.state), "--port", "0"]
        self.process = start([*arguments, "--metrics-port", "0", "--log-level", "debug", *flags], self.log_file)

    @property
    def text(self) -> list[str]:
        """Whole lines of its log."""
        text = self.log_file.read_text() if self.log_file.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    @property
    def logs(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text if line.startswith("{")]

    def said(self, event: str, **fields: Any) -> dict[str, Any] | None:
        """The first line of the log that says this."""
        return next(
            (
                line
                for line in list(self.logs)
                if line.get("event") == event and all(line.get(key) == value for key, value in fields.items())
            ),
            None,
        )

    def await_said(self, event: str, **fields: Any) -> dict[str, Any]:
        def look() -> Any:
            found = self.said(event, **fields)
            assert found or self.process.poll() is None, "".join(self.text[-30:])
            return found

        return wait_until(look, lambda: "".join(self.text[-30:]))

    @property
    def url(self) -> str | None:
        """Of the control endpoint, while it runs."""
        said = self.said("operator.listening", endpoint="control endpoint")
        return said["url"] if said and self.process.poll() is None else None

    def health(self, path: str) -> tuple[int, str]:
        said = self.await_said("operator.listening", endpoint="metrics endpoint")
        try:
            with urllib.request.urlopen(said["url"] + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code: int = self.process.wait(DEADLINE)
        return code


class Stage:
    """What a test plays with; all of it ends with the test."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.operators: list[Operator] = []
        self.replicas: list[Replica] = []
        self._watchers: list[threading.Thread] = []
        self._closing = False

    def operator(self, *flags: str) -> Operator:
        """The command as people start it."""
        self.operators.append(Operator(self.workspace, flags, _spawn))
        return self.operators[-1]

    def dying_operator(self, nursery: Nursery, at: int, when: str, writes: Path) -> Operator:
        """The command that dies at its write number `at`."""

        def fork(arguments: list[str], log: Path) -> Forked:
            order = {"argv": arguments, "log": str(log), "writes": str(writes), "at": at, "when": when}
            return nursery.start(order)

        self.operators.append(Operator(self.workspace, (), fork))
        return self.operators[-1]

    def revive_after(self, operator: Operator, start: Callable[[], Operator]) -> None:
        """Starts another when this one has died."""

        def watch() -> None:
            while operator.process.poll() is None and not self._closing:
                time.sleep(0.02)
            if not self._closing:
                start()

        self._watchers.append(threading.Thread(target=watch, daemon=True))
        self._watchers[-1].start()

    def until(self, condition: Callable[[], Any], what: Callable[[], Any] = lambda: "") -> Any:
        return wait_until(condition, what)

    def url(self) -> str | None:
        """Of the operator that acts, or else any."""
        urls = [each.url for each in self.operators if each.url and not each.said("lock.waiting")]
        taken_over = [each.url for each in self.operators if each.url and each.said("lock.acquired")]
        return next(reversed(taken_over or urls), None)

    def replica(self, name: str = "r1", server: str = "cats") -> Replica:
        self.replicas.append(Replica(name, self.url, lambda: self.workspace.token(server), server))
        return self.replicas[-1]

    def close(self) -> None:
        self._closing = True
        for replica in self.replicas:
            replica.stop()
        for watcher in self._watchers:
            watcher.join(DEADLINE)
        for operator in self.operators:
            operator.stop(signal.SIGKILL)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(Workspace(tmp_path))
    try:
        yield stage
    finally:
        stage.close()


def _spawn(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, "-m", "windlass_operator.main", *arguments], stderr=file)


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    try:
        yield nursery
    finally:
        nursery.close()


@pytest.fixture
def new_stage() -> Callable[[Path], Stage]:
    """For tests that need several; they close them."""
    return lambda folder: Stage(Workspace(folder))


@pytest.fixture
def workspace(stage: Stage) -> Workspace:
    return stage.workspace


@pytest.fixture
def digest_of() -> Callable[[str], str]:
    return digest


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_until
