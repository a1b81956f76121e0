"""Real replicas, and a real control endpoint that a test publishes plans on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp.web import AppRunner, TCPSite

from windlass_contract.artifact import read_manifest
from windlass_contract.plan import ModelPlan, PlannedVersion, SamplesRef, ServingPlan
from windlass_contract.report import ServingReport, VersionState
from windlass_operator.control.auth import FileTokens
from windlass_operator.control.endpoint import create_app
from windlass_operator.control.hub import Hub
from windlass_testing.one_machine import BIN, Process, Replica, free_port, wait_until

SERVER = "one"


class Control:
    """The operator's control endpoint without an engine behind it, on a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.tokens = folder / "tokens"
        self.tokens.mkdir(parents=True)
        self.token_file = self.tokens / SERVER
        self.token_file.write_text("the-secret-of-one\n")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.plan: ServingPlan | None = None
        self._samples: dict[str, bytes] = {}
        self._hub = Hub()
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        self._runner: AppRunner | None = None
        self._confirming: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._thread is not None

    def start(self) -> None:
        """Answers from now on, on the same port each time."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="control")
        self._thread.start()
        self._call(self._open())

    def stop(self) -> None:
        """Is gone, as when the operator died."""
        if self._thread is not None:
            self._call(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._thread = None

    def publish(self, plan: ServingPlan | None, **samples: bytes) -> None:
        """What all subscribers are told. `samples`: bytes by digest, of which only the hex digits are given."""
        self.plan = plan
        self._samples = {f"sha256:{digits.removeprefix('sha256_')}": data for digits, data in samples.items()}
        if self.running:
            self._call(self._publish())

    def report(self, replica: str = "r1") -> ServingReport | None:
        """The newest report of a replica's newest instance."""
        if not self.running:
            return None
        seen = [each.report for each in self._call(self._reports()) if each.report.replica == replica]
        return max(seen, key=lambda report: report.sequence, default=None)

    def reports(self) -> list[ServingReport]:
        """The newest report of each instance."""
        return [each.report for each in self._call(self._reports())]

    async def _reports(self) -> Any:
        return self._hub.reports(SERVER)

    async def _open(self) -> None:
        self._hub = Hub()
        self._hub.act()
        self._hub.open(SERVER)
        await self._publish()
        self._runner = AppRunner(create_app(self._hub, FileTokens(self.tokens)), shutdown_timeout=0.1)
        await self._runner.setup()
        await TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self._confirming = asyncio.create_task(self._confirm())

    async def _publish(self) -> None:
        self._hub.offer_samples(SERVER, self._samples)
        self._hub.publish(SERVER, self.plan)
        self._hub.confirm(SERVER)

    async def _confirm(self) -> None:
        while True:
            self._hub.confirm(SERVER)
            await asyncio.sleep(0.5)

    async def _close(self) -> None:
        if self._confirming is not None:
            self._confirming.cancel()
        self._hub.rest("this operator is gone")
        if self._runner is not None:
            await self._runner.cleanup()

    def _call(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(30)


@dataclass
class Rig:
    """A folder of models, a control endpoint, and replicas."""

    folder: Path
    control: Control
    replicas: list[Replica] = field(default_factory=list)

    @property
    def models(self) -> Path:
        return self.folder / "models"

    def start(
        self, *extra: str, name: str = "r1", managed: bool = True, state: bool = True, server: str | None = SERVER
    ) -> Replica:
        """Starts a replica; it isn't ready yet."""
        port, metrics_port = free_port(), free_port()
        following = ["--operator", self.control.url, "--control-token-file", str(self.control.token_file)]
        process = Process(
            name,
            [
                str(BIN / "windlass-server"),
                *("--replica", name, "--models", str(self.models), "--port", str(port)),
                *("--metrics-port", str(metrics_port), "--drain-delay", "1"),
                *(["--server", server] if server else []),
                *(["--state-dir", str(self.folder / "state" / name)] if state else []),
                *(following if managed else []),
                *extra,
            ],
            self.folder / f"{name}.log",
        )
        replica = Replica(name, process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}")
        self.replicas.append(replica)
        process.start()
        return replica

    def ready(self, replica: Replica) -> Replica:
        """Waits until it is."""
        wait_until(f"{replica.name} is ready", replica.ready, last_seen=replica.process.tail)
        return replica

    def digest(self, model: str, version: int) -> str:
        return read_manifest(self.models / model / str(version)).digest

    def plan(self, epoch: int, weights: dict[int, int], model: str = "m", **fields: Any) -> ServingPlan:
        """A plan for one model. `hidden`: versions that can't be named; `samples`: version to (digest, least score)."""
        hidden, samples = fields.pop("hidden", ()), fields.pop("samples", {})
        versions = [
            PlannedVersion(
                version=version,
                digest=self.digest(model, version),
                weight=weight,
                addressable=version not in hidden,
                samples=SamplesRef(digest=samples[version][0], min_score=samples[version][1])
                if version in samples
                else None,
            )
            for version, weight in weights.items()
        ]
        return ServingPlan.build(SERVER, epoch, {model: ModelPlan(versions=versions, **fields)})

    def state_of(self, version: int, model: str = "m", replica: str = "r1") -> VersionState | None:
        """As reported last."""
        report = self.control.report(replica)
        seen = report.version(model, version) if report else None
        return seen.state if seen else None

    def wait_for_state(self, version: int, state: VersionState, model: str = "m") -> None:
        wait_until(
            f"version {version} is {state}",
            lambda: self.state_of(version, model) is state,
            last_seen=lambda: f"{self.control.report()}\n{self.replicas[-1].process.tail()}",
        )

    def stop(self) -> None:
        for replica in self.replicas:
            if replica.process.running:
                replica.process.stop(timeout=90)
        self.control.stop()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Nothing runs yet."""
    rig = Rig(tmp_path, Control(tmp_path))
    rig.models.mkdir()
    try:
        yield rig
    finally:
        rig.stop()


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Waits for a condition."""
    return wait_until
