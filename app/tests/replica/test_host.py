"""How a host makes plans true, with residents whose progress the test decides."""

from __future__ import annotations

import asyncio

import pytest
from host_rig import INPUTS, SAMPLES, Rig, digest, plan, play, settle, until

from windlass_contract.failures import Reason
from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.report import VersionState
from windlass_server.hosting import host as host_module
from windlass_server.hosting.host import Host
from windlass_server.hosting.order import Key


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


def test_a_replica_follows_the_entry_of_its_revision_and_reports_the_whole_plan() -> None:
    async def scenario() -> None:
        rig = Rig(revision="m-2")
        planned = PlannedVersion(version=2, digest=digest(2))
        rig.host.apply(plan(1, {1: 1000}, committed=1, revisions={"m-2": planned}))
        await rig.ends("m/2")
        assert rig.serving() == {}, "it isn't admitted yet"
        assert rig.host.held_back == {"m"}
        told = plan(2, {1: 1000}, committed=1, revisions={"m-2": planned.model_copy(update={"weight": 1000})})
        rig.host.apply(told)
        assert rig.serving() == {2: 1000}
        assert rig.host.held_back == frozenset()
        assert "m/1" not in rig.residents
        report = rig.host.report(ready=True, draining=False, plan_conflict=False)
        assert (report.plan, report.revision) == (told, "m-2")
        rig.host.apply(plan(3, {2: 1000}, committed=2))
        await settle()
        assert rig.serving() == {2: 1000}
        assert list(rig.residents) == ["m/2"], "what is committed is what it holds"

    play(scenario)
