"""The host's shell around the pure decisions, with residents whose progress the test decides."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.manifest import DataType, FileEntry, Manifest, ModelFormat, Signature, TensorSpec
from windlass_contract.plan import ModelPlan, PlannedVersion, SamplesRef, ServingPlan
from windlass_contract.report import VersionReport, VersionState
from windlass_contract.samples import AcceptanceSamples
from windlass_server.errors import Code, ServingError
from windlass_server.hosting import host as host_module
from windlass_server.hosting.host import Host, HostSettings, SamplesUnavailable
from windlass_server.hosting.order import Key
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

    async def unload(self) -> None:
        self._log.append(f"unload {self.order.key}")
        self.state = VersionState.UNLOADING

    def report(self) -> VersionReport:
        return VersionReport(version=self.order.key.version, state=self.state, failure=self.failure)


class Rig:
    """A host with fake residents, by `model/version`."""

    def __init__(self, **settings) -> None:
        self.log: list[str] = []
        self.residents: dict[str, FakeResident] = {}
        self.samples_there = True
        self.host = Host(
            ("s", "r", "00000001"), HostSettings(models=Path("/models"), **settings), self._make, self._samples
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


def test_a_new_version_is_loaded_beside_the_old_one_then_changed_over_then_the_old_one_goes():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")
        rig.host.apply(plan(2, {1: 1000, 2: 0}, committed=1, candidate=2))
        await rig.ends("m/2")
        assert rig.serving() == {1: 1000}
        rig.host.apply(plan(3, {1: 0, 2: 1000}, committed=2, previous=1))
        assert rig.serving() == {2: 1000}  # at once, without waiting for anything
        rig.host.apply(plan(4, {2: 1000}, committed=2))
        await until(lambda: "unload m/1" in rig.log)
        assert rig.log == ["prepare m/1", "prepare m/2", "unload m/1"]

    play(scenario)


def test_told_to_commit_what_it_does_not_hold_it_goes_on_reports_lagging_loads_and_changes_over():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")
        rig.host.apply(plan(2, {2: 1000}, committed=2))
        report = rig.host.report(ready=True, draining=False, plan_conflict=False).models["m"]
        assert (report.lagging, report.serving) == (True, {1: 1000})
        admission = rig.host.admit("m")
        assert (admission.version, admission.epoch) == (1, 2)
        rig.host.release(admission)
        await rig.ends("m/2")
        report = rig.host.report(ready=True, draining=False, plan_conflict=False).models["m"]
        assert (report.lagging, report.serving) == (False, {2: 1000})
        await until(lambda: rig.log[-1] == "unload m/1")

    play(scenario)


def test_a_version_is_unloaded_only_when_its_requests_are_answered():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")
        rig.residents["m/1"].gate.clear()
        admission = rig.host.admit("m")
        request = asyncio.create_task(rig.host.infer(admission, "serving_default", INPUTS))
        rig.host.apply(plan(2, {2: 1000}, committed=2))
        await rig.ends("m/2")
        await settle()
        assert "unload m/1" not in rig.log
        assert rig.states()[1] is VersionState.UNLOADING
        rig.residents["m/1"].gate.set()
        assert (await request)["y"].tolist() == [1.0]  # in flight, it finished where it began
        await until(lambda: "unload m/1" in rig.log)

    play(scenario)


def test_a_superseded_candidate_is_interrupted_and_gone_before_the_next_one_loads():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")
        rig.host.apply(plan(2, {1: 1000, 2: 0}, committed=1, candidate=2))
        await until(lambda: "prepare m/2" in rig.log)
        rig.host.apply(plan(3, {1: 1000, 3: 0}, committed=1, candidate=3))
        await rig.ends("m/3")
        assert rig.log == ["prepare m/1", "prepare m/2", "unload m/2", "prepare m/3"]

    play(scenario)


def test_what_only_waits_is_tried_again_and_a_verdict_is_final(monkeypatch):
    monkeypatch.setattr(host_module, "RETRY_FIRST_SECONDS", 0.01)

    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1", VersionState.WAITING)
        assert rig.states() == {1: VersionState.WAITING}
        await rig.ends("m/1", VersionState.FAILED)
        assert rig.states() == {1: VersionState.FAILED}
        await asyncio.sleep(0.1)
        assert rig.log == ["prepare m/1"] * 2

    play(scenario)


def test_a_prepared_candidate_counts_as_prepared_only_for_the_samples_it_passed():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000, 2: 0}, samples=7, committed=1, candidate=2))
        await rig.ends("m/1")
        await rig.ends("m/2")
        assert rig.states()[2] is VersionState.PREPARED
        rig.host.apply(plan(2, {1: 1000, 2: 0}, samples=8, committed=1, candidate=2))
        assert rig.states()[2] is not VersionState.PREPARED
        await until(lambda: rig.log[-2:] == ["unload m/2", "prepare m/2"])
        await rig.ends("m/2")
        assert rig.states()[2] is VersionState.PREPARED

    play(scenario)


def test_a_verdict_of_an_attempt_that_was_cleared_is_not_told_of_the_next_one():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000, 2: 0}, attempt=1, committed=1, candidate=2))
        await rig.ends("m/1")
        await rig.ends("m/2", VersionState.FAILED)
        assert rig.states()[2] is VersionState.FAILED
        # Plan 2, without the rejected candidate, never came here.
        rig.host.apply(plan(3, {1: 1000, 2: 0}, attempt=3, committed=1, candidate=2))
        assert rig.states()[2] is not VersionState.FAILED
        await until(lambda: rig.log[-2:] == ["unload m/2", "prepare m/2"])
        await rig.ends("m/2")
        assert rig.states()[2] is VersionState.PREPARED

    play(scenario)


def test_a_verdict_on_what_was_begun_in_an_earlier_attempt_is_not_told_of_the_next_one():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000, 2: 0}, attempt=1, committed=1, candidate=2))
        await rig.ends("m/1")
        await until(lambda: "m/2" in rig.residents and rig.residents["m/2"].state is VersionState.LOADING)
        rig.host.apply(plan(3, {1: 1000, 2: 0}, attempt=3, committed=1, candidate=2))
        told = []
        rig.host.on_change = lambda: told.append(rig.states()[2])
        await rig.ends("m/2", VersionState.FAILED)
        await until(lambda: rig.log[-2:] == ["unload m/2", "prepare m/2"])
        assert VersionState.FAILED not in told
        await rig.ends("m/2", VersionState.FAILED)
        assert rig.states()[2] is VersionState.FAILED

    play(scenario)


def test_what_is_prepared_stays_so_over_attempts_and_may_fail_in_the_present_one():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000, 2: 0}, attempt=1, committed=1, candidate=2))
        await rig.ends("m/1")
        await rig.ends("m/2")
        rig.host.apply(plan(3, {1: 1000, 2: 0}, attempt=3, committed=1, candidate=2))
        await settle()
        assert rig.states()[2] is VersionState.PREPARED
        assert rig.log == ["prepare m/1", "prepare m/2"]
        rig.residents["m/2"].enter(VersionState.FAILED)
        assert rig.states()[2] is VersionState.FAILED

    play(scenario)


def test_one_that_has_to_stay_is_not_called_prepared_for_samples_it_was_never_tried_with():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {2: 1000}, committed=2))
        await rig.ends("m/2")
        rig.host.apply(plan(2, {1: 1000, 2: 0}, samples=8, committed=1, candidate=2))
        assert rig.states()[2] is VersionState.WAITING
        await rig.ends("m/1")
        await until(lambda: rig.log[-2:] == ["unload m/2", "prepare m/2"])

    play(scenario)


def test_samples_that_cannot_be_had_are_no_verdict_and_asked_for_again(monkeypatch):
    monkeypatch.setattr(host_module, "RETRY_FIRST_SECONDS", 0.01)

    async def scenario():
        rig = Rig()
        rig.samples_there = False
        rig.host.apply(plan(1, {1: 0}, samples=7, candidate=1))
        slot = rig.host.slots[Key("m", 1, digest(1))]
        await until(lambda: slot.failure is not None)
        assert slot.report().failure.reason is Reason.SAMPLES_UNAVAILABLE
        assert slot.report().state is VersionState.WAITING
        rig.samples_there = True
        await rig.ends("m/1")
        assert rig.residents["m/1"].order.samples is SAMPLES
        assert slot.report().failure is None

    play(scenario)


def test_a_dead_worker_is_routed_around_and_back():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")
        rig.host.apply(plan(2, {2: 1000, 1: 0}, committed=2, previous=1))
        await rig.ends("m/2")
        rig.residents["m/2"].enter(VersionState.LOADING)
        assert rig.serving() == {1: 1000}
        with pytest.raises(ServingError) as caught:
            rig.host.admit("m", version=2)
        assert caught.value.code is Code.UNAVAILABLE
        rig.residents["m/2"].enter(VersionState.PREPARED)
        assert rig.serving() == {2: 1000}

    play(scenario)


def test_a_model_without_a_living_version_answers_503_alone():
    async def scenario():
        rig = Rig()
        models = {
            name: ModelPlan(committed=1, versions=[PlannedVersion(version=1, digest=digest(1), weight=1000)])
            for name in ("m", "n")
        }
        rig.host.apply(ServingPlan.build("s", 1, models))
        await rig.ends("m/1")
        await rig.ends("n/1")
        rig.residents["n/1"].enter(VersionState.LOADING)
        rig.host.release(rig.host.admit("m"))
        with pytest.raises(ServingError) as caught:
            rig.host.admit("n")
        assert (caught.value.http_status, caught.value.retry_after) == (503, 1)

    play(scenario)


def test_queues_are_bounded_each_for_itself_and_answer_429():
    async def scenario():
        rig = Rig(queue_length=2, explicit_queue_length=1)
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")
        first, _second = rig.host.admit("m"), rig.host.admit("m")
        with pytest.raises(ServingError) as caught:
            rig.host.admit("m")
        assert (caught.value.http_status, caught.value.retry_after) == (429, 1)
        rig.host.admit("m", version=1)
        with pytest.raises(ServingError, match="1 requests wait"):
            rig.host.admit("m", version=1)
        rig.host.release(first)
        rig.host.release(first)  # twice is harmless
        rig.host.admit("m")
        with pytest.raises(ServingError):
            rig.host.admit("m")

    play(scenario)


def test_a_request_whose_deadline_passed_before_it_was_run_is_answered_504():
    async def scenario():
        rig = Rig(request_deadline=0.0)
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")
        with pytest.raises(ServingError) as caught:
            await rig.host.infer(rig.host.admit("m"), "serving_default", INPUTS)
        assert caught.value.http_status == 504
        assert next(iter(rig.host.slots.values())).waiting == 0

    play(scenario)


def test_evidence_counts_own_faults_and_leaves_out_requests_that_name_a_version():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")

        async def ask(error: Code | None = None, **named) -> None:
            rig.residents["m/1"].error = ServingError(error, "as the test says") if error else None
            admission = rig.host.admit("m", **named)
            if error is None:
                await rig.host.infer(admission, "serving_default", INPUTS)
            else:
                with pytest.raises(ServingError):
                    await rig.host.infer(admission, "serving_default", INPUTS)

        await ask()
        await ask(version=1)
        await ask(Code.INTERNAL)
        await ask(Code.INTERNAL, version=1)
        await ask(Code.INVALID_ARGUMENT)  # the client's fault
        counters = next(iter(rig.host.slots.values())).report().counters
        assert (counters.requests, counters.errors, counters.latency.count) == (3, 1, 3)

    play(scenario)


def test_counters_do_not_fall_back_when_a_version_is_loaded_again():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")
        await rig.host.infer(rig.host.admit("m"), "serving_default", INPUTS)
        rig.host.apply(plan(2, {}))
        await until(lambda: not rig.host.slots)
        rig.host.apply(plan(3, {1: 1000}, committed=1))
        await settle()
        assert next(iter(rig.host.slots.values())).report().counters.requests == 1

    play(scenario)


def test_a_plan_that_is_not_newer_is_refused():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(5, {}))
        for epoch in (5, 4):
            with pytest.raises(ValueError, match="doesn't follow plan 5"):
                rig.host.apply(plan(epoch, {}))

    play(scenario)


def test_a_candidates_weight_lasts_as_long_as_its_lease():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 900, 2: 100}, committed=1, candidate=2, lease_seconds=0.2))
        await rig.ends("m/1")
        await rig.ends("m/2")
        assert rig.serving() == {1: 1000}  # a restarted replica holds no lease
        rig.host.renew(9, ["m"])
        assert rig.serving() == {1: 1000}  # that was for another epoch
        rig.host.renew(1, ["m"])
        assert rig.serving() == {1: 900, 2: 100}
        await until(lambda: rig.serving() == {1: 1000})

    play(scenario)


def test_before_it_begins_a_plan_is_held_and_reported_but_nothing_is_loaded():
    async def scenario():
        rig = Rig()
        idle = Host(("s", "r", "00000002"), rig.host.settings, rig._make, rig._samples)
        idle.apply(plan(4, {1: 1000}, committed=1))
        await settle()
        assert rig.log == []
        assert idle.report(ready=False, draining=False, plan_conflict=False).plan.epoch == 4
        idle.apply(plan(5, {2: 1000}, committed=2))
        idle.begin()
        await rig.ends("m/2")
        assert rig.log == ["prepare m/2"]  # the old plan's version never was loaded

    play(scenario)


def test_closing_answers_what_was_admitted_and_admits_nothing_more():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")
        rig.residents["m/1"].gate.clear()
        request = asyncio.create_task(rig.host.infer(rig.host.admit("m"), "serving_default", INPUTS))
        closing = asyncio.create_task(rig.host.close())
        await settle()
        with pytest.raises(ServingError) as caught:
            rig.host.admit("m")
        assert caught.value.code is Code.UNAVAILABLE
        rig.residents["m/1"].gate.set()
        assert (await request)["y"].tolist() == [1.0]
        await closing
        assert rig.log[-1] == "unload m/1"

    play(scenario)


def test_a_fault_of_the_host_itself_does_not_block_other_versions(monkeypatch):
    monkeypatch.setattr(host_module, "RETRY_FIRST_SECONDS", 60.0)

    async def scenario():
        rig = Rig()
        make = rig._make

        def broken(order, on_change):
            if order.key.model == "a":
                raise RuntimeError("broken on purpose")
            return make(order, on_change)

        rig.host._make_resident = broken
        one = ModelPlan(committed=1, versions=[PlannedVersion(version=1, digest=digest(1), weight=1000)])
        rig.host.apply(ServingPlan.build("s", 1, {"a": one, "m": one}))
        await rig.ends("m/1")
        report = rig.host.report(ready=False, draining=False, plan_conflict=False).models["a"].versions[0]
        assert report.failure.reason is Reason.RUNTIME_UNAVAILABLE
        assert "broken on purpose" in report.failure.message

    play(scenario)
