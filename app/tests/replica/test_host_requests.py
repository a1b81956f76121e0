"""What a host does with requests, with residents whose progress the test decides."""

from __future__ import annotations

import asyncio

import pytest
from host_rig import INPUTS, Rig, digest, plan, play, settle, until

from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.report import VersionState
from windlass_server.errors import Code, ServingError


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
