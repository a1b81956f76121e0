"""A host with residents whose progress the test decides."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.manifest import DataType, FileEntry, Manifest, ModelFormat, Signature, TensorSpec
from windlass_contract.plan import ModelPlan, PlannedVersion, SamplesRef, ServingPlan
from windlass_contract.report import VersionReport, VersionState
from windlass_contract.samples import AcceptanceSamples
from windlass_server.errors import ServingError
from windlass_server.hosting.host import Host, HostSettings, SamplesUnavailable
from windlass_server.hosting.memory_watch import Footprint
from windlass_server.hosting.slot import Order

SIGNATURE = Signature(
    inputs={"x": TensorSpec(datatype=DataType.FP32, shape=[-1])},
    outputs={"y": TensorSpec(datatype=DataType.FP32, shape=[-1])},
)
SAMPLES = AcceptanceSamples.parse({"samples": [{"inputs": {"x": 1}, "expect": {"values": 1}}]}, "samples")
INPUTS = {"x": np.zeros(1, np.float32)}


class FakeResident:
    """Does what the test says: `outcome` is set by it, and requests wait for `gate`."""

    def __init__(self, order: Order, on_change, log: list[str]) -> None:
        self.order = order
        self._on_change = on_change
        self._log = log
        self.state = VersionState.WAITING
        self.failure: Failure | None = None
        self.outcome: asyncio.Future[VersionState] = asyncio.get_running_loop().create_future()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: ServingError | None = None
        self.stuck = False
        self.max_batch_size, self.slice_rows, self.threads, self.frozen = 4, 8, 2, True
        self.digest = order.key.digest
        self.signatures = {"serving_default": SIGNATURE}
        self.manifest = Manifest(
            model=order.key.model,
            version=order.key.version,
            format=ModelFormat.SAVED_MODEL,
            files=[FileEntry(path="saved_model.pb", size=0, sha256="0" * 64)],
            signatures=self.signatures,
        )

    def enter(self, state: VersionState) -> None:
        self.state = state
        self._on_change()

    async def prepare(self) -> None:
        self._log.append(f"prepare {self.order.key}")
        self.enter(VersionState.LOADING)
        try:
            state = await self.outcome
        except asyncio.CancelledError:
            self.enter(VersionState.WAITING)
            raise
        self.outcome = asyncio.get_running_loop().create_future()
        if state is not VersionState.PREPARED:
            reason = Reason.LOAD_FAILED if state is VersionState.FAILED else Reason.FILE_MISSING
            self.failure = Failure(gate=Gate.LOAD, reason=reason, message="as the test says")
        self.enter(state)

    async def infer(self, *_request, **_bounds):
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return {"y": np.full(1, self.order.key.version, np.float32)}

    def footprint(self) -> Footprint | None:
        return Footprint(1, 1) if self.state in {VersionState.LOADING, VersionState.PREPARED} else None

    async def evict(self, why: str, *, own_fault: bool) -> None:
        self.evicted = (why, own_fault)

    async def unload(self) -> None:
        self._log.append(f"unload {self.order.key}")
        self.state = VersionState.UNLOADING

    def report(self) -> VersionReport:
        return VersionReport(version=self.order.key.version, state=self.state, failure=self.failure)


class Rig:
    """A host with fake residents, by `model/version`."""

    def __init__(self, revision: str = "", **settings) -> None:
        self.log: list[str] = []
        self.residents: dict[str, FakeResident] = {}
        self.samples_there = True
        self.host = Host(
            ("s", "r", "00000001"),
            HostSettings(models=Path("/models"), **settings),
            self._make,
            self._samples,
            revision=revision,
        )
        self.host.begin()

    def _make(self, order: Order, on_change) -> FakeResident:
        resident = FakeResident(order, on_change, self.log)
        self.residents[str(order.key)] = resident
        return resident

    async def _samples(self, digest: str) -> AcceptanceSamples:
        if not self.samples_there:
            raise SamplesUnavailable(f"{digest} can't be had")
        return SAMPLES

    async def ends(self, name: str, state: VersionState = VersionState.PREPARED) -> None:
        """Lets a preparation end, once it has begun."""
        await until(lambda: name in self.residents and self.residents[name].state is VersionState.LOADING)
        self.residents[name].outcome.set_result(state)
        await settle()

    def states(self) -> dict[int, VersionState]:
        report = self.host.report(ready=True, draining=False, plan_conflict=False)
        return {each.version: each.state for each in report.models["m"].versions}

    def serving(self) -> dict[int, int]:
        return self.host.report(ready=True, draining=False, plan_conflict=False).models["m"].serving


def digest(number: int) -> str:
    return f"sha256:{number:064d}"


def plan(epoch: int, weights: dict[int, int], *, samples: int | None = None, attempt: int = 0, **roles) -> ServingPlan:
    versions = [
        PlannedVersion(
            version=version,
            digest=digest(version),
            weight=weight,
            samples=SamplesRef(digest=digest(samples)) if samples and version == roles.get("candidate") else None,
            attempt=attempt if version == roles.get("candidate") else 0,
        )
        for version, weight in weights.items()
    ]
    return ServingPlan.build("s", epoch, {"m": ModelPlan(versions=versions, **roles)})


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition is the host's inner state
            await asyncio.sleep(0.001)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def play(scenario) -> None:
    asyncio.run(scenario())
