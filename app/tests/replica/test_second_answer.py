"""Who answers a request that a version failed: tables, then the host that acts on them."""

from __future__ import annotations

import asyncio
import math

import pytest
from host_rig import INPUTS, Rig, plan, play, settle, until

from windlass_contract.manifest import DataType, Signature, TensorSpec
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.faults import NoAnswerInTimeError, WorkerLostError
from windlass_server.hosting.meter import Meter
from windlass_server.hosting.router import Held
from windlass_server.hosting.second_answer import is_answered_again, same_interface, second_of, time_for_first

COMMITTED, PREVIOUS, CANDIDATE = (
    Held(version, f"sha256:{version:064d}", True, True, f"v{version}") for version in (2, 1, 3)
)


@pytest.mark.parametrize(
    ("code", "explicit", "left", "again"),
    [
        (Code.INTERNAL, False, 1.0, True),
        (Code.UNAVAILABLE, False, 1.0, True),
        (Code.DEADLINE_EXCEEDED, False, 1.0, True),
        (Code.INVALID_ARGUMENT, False, 1.0, False),
        (Code.PAYLOAD_TOO_LARGE, False, 1.0, False),
        (Code.RESOURCE_EXHAUSTED, False, 1.0, True),
        (Code.NOT_FOUND, False, 1.0, False),
        (Code.UNIMPLEMENTED, False, 1.0, False),
        (Code.INTERNAL, True, 1.0, False),
        (Code.UNAVAILABLE, True, 1.0, False),
        (Code.INTERNAL, False, 0.0, False),
        (Code.DEADLINE_EXCEEDED, False, -0.1, False),
    ],
)
def test_only_the_versions_own_faults_are_answered_again_in_time_and_where_no_version_was_named(
    code, explicit, left, again
):
    assert is_answered_again(code, explicit=explicit, left=left) is again


@pytest.mark.parametrize(
    ("case", "failed", "seconds", "broken", "answers"),
    [
        ("the candidate's by the committed", CANDIDATE, (COMMITTED, PREVIOUS), (), COMMITTED),
        ("the committed one's by the previous", COMMITTED, (COMMITTED, PREVIOUS), (), PREVIOUS),
        ("nobody's when the previous is gone", COMMITTED, (COMMITTED,), (), None),
        ("what stood in, by the committed", PREVIOUS, (COMMITTED, PREVIOUS), (), COMMITTED),
        ("not by one with an open breaker", CANDIDATE, (COMMITTED, PREVIOUS), ("v2",), PREVIOUS),
        ("by nobody when all others are broken", CANDIDATE, (COMMITTED,), ("v2",), None),
        ("never by a candidate", COMMITTED, (), (), None),
    ],
)
def test_who_answers_instead(case, failed, seconds, broken, answers):
    assert second_of(failed.target, seconds, broken) is answers, case


@pytest.mark.parametrize(
    ("left", "usual", "first"),
    [
        (30.0, None, 30.0),
        (30.0, 0.01, 29.5),
        (30.0, 1.0, 25.0),
        (30.0, 10.0, 15.0),
        (30.0, 16.0, 30.0),  # a second answer wouldn't be ready in time: the first isn't cut off for it
        (30.0, math.inf, 30.0),
        (1.0, 0.01, 0.5),
        (0.4, 0.01, 0.2),
    ],
)
def test_time_is_kept_for_a_second_answer_that_can_make_it(left, usual, first):
    assert time_for_first(left, usual) == first


def test_another_version_is_asked_only_for_what_it_has_too():
    def signature(kind: DataType, output: str = "y") -> Signature:
        return Signature(
            inputs={"x": TensorSpec(datatype=kind, shape=[-1])}, outputs={output: TensorSpec(datatype=kind, shape=[-1])}
        )

    plain = {"serving_default": signature(DataType.FP32)}
    assert same_interface("serving_default", plain, plain)
    assert not same_interface("other", plain, plain)
    assert not same_interface("serving_default", plain, {})
    assert not same_interface("serving_default", plain, {"serving_default": signature(DataType.FP64)})
    assert not same_interface("serving_default", plain, {"serving_default": signature(DataType.FP32, "z")})


def test_a_meter_knows_what_most_answers_stayed_below():
    meter = Meter()
    assert meter.usual_seconds() == 0.1
    for _ in range(100):
        meter.count(None, 0.003, explicit=False)
    assert meter.usual_seconds() == 0.005
    for _ in range(200):
        meter.count(None, 100, explicit=False)
    assert meter.usual_seconds() == math.inf


async def two_versions(**settings) -> Rig:
    """Version 2 is committed, 1 the previous one."""
    rig = Rig(**settings)
    rig.host.apply(plan(1, {1: 1000}, committed=1))
    await rig.ends("m/1")
    rig.host.apply(plan(2, {1: 1000, 2: 0}, committed=1, candidate=2))
    await rig.ends("m/2")
    rig.host.apply(plan(3, {1: 0, 2: 1000}, committed=2, previous=1))
    return rig


async def ask(rig: Rig, **name) -> tuple[list[float], int]:
    """The answer, and the version that it is said to come from."""
    admission = rig.host.admit("m", **name)
    answer = await rig.host.infer(admission, "serving_default", INPUTS)
    return answer["y"].tolist(), rig.host.answered_by(admission).version


def lost_worker(worker: int, crashed: bool) -> ServingError:
    async def how() -> bool:
        return crashed

    return WorkerLostError("it crashed", worker, how)


def version_report(rig: Rig, version: int):
    return rig.host.report(ready=True, draining=False, plan_conflict=False).version("m", version)


def test_what_the_committed_version_fails_the_previous_one_answers_and_is_named_for_it():
    async def scenario():
        rig = await two_versions()
        rig.residents["m/2"].error = ServingError(Code.INTERNAL, "broken")
        assert await ask(rig) == ([1.0], 1)
        counters = version_report(rig, 2).counters
        assert (counters.requests, counters.errors, counters.fallbacks) == (1, 1, 1)
        assert version_report(rig, 1).counters.requests == 1
        rig.residents["m/2"].error = None
        assert await ask(rig) == ([2.0], 2)

    play(scenario)


def test_the_clients_own_fault_and_a_named_version_get_no_second_answer():
    async def scenario():
        rig = await two_versions()
        rig.residents["m/2"].error = ServingError(Code.INVALID_ARGUMENT, "a shape")
        with pytest.raises(ServingError, match="a shape"):
            await ask(rig)
        rig.residents["m/2"].error = ServingError(Code.INTERNAL, "broken")
        with pytest.raises(ServingError, match="broken"):
            await ask(rig, version=2)
        assert version_report(rig, 2).counters.fallbacks == 0
        assert version_report(rig, 1).counters.requests == 0

    play(scenario)


def test_a_request_that_both_fail_gets_the_first_ones_error_and_counts_against_nobody():
    async def scenario():
        rig = await two_versions()
        rig.residents["m/2"].error = ServingError(Code.INTERNAL, "broken here")
        rig.residents["m/1"].error = ServingError(Code.INTERNAL, "broken there")
        for _ in range(60):
            with pytest.raises(ServingError, match="broken here"):
                await ask(rig)
        assert not rig.host.open_breakers
        assert all(slot.waiting == 0 for slot in rig.host.slots.values())

    play(scenario)


def test_an_open_breaker_gives_the_traffic_back_says_so_and_stays_open_until_the_plan_changes():
    async def scenario():
        rig = await two_versions()
        rig.residents["m/2"].error = ServingError(Code.INTERNAL, "broken")
        for _ in range(20):
            assert (await ask(rig))[1] == 1
        report = rig.host.report(ready=True, draining=False, plan_conflict=False).models["m"]
        assert (report.breaker_open, report.serving, report.lagging) == (True, {1: 1000}, False)
        assert rig.host.plan.models["m"].committed == 2  # roles stay
        rig.residents["m/2"].error = None
        assert await ask(rig) == ([1.0], 1)
        assert await ask(rig, version=2) == ([2.0], 2)
        rig.host.apply(plan(4, {1: 0, 2: 1000}, committed=2, previous=1))  # another epoch that says the same
        assert rig.serving() == {1: 1000}
        rig.host.apply(plan(5, {1: 1000}, committed=1))
        assert not rig.host.open_breakers
        await until(lambda: "unload m/2" in rig.log)

    play(scenario)


def test_without_a_version_to_go_back_to_no_breaker_opens():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")
        rig.residents["m/1"].error = ServingError(Code.INTERNAL, "broken")
        for _ in range(60):
            with pytest.raises(ServingError):
                await ask(rig)
        assert not rig.host.open_breakers
        assert rig.serving() == {1: 1000}

    play(scenario)


@pytest.mark.parametrize(("crashed", "opens"), [(True, True), (False, False)])
def test_crashes_open_a_breaker_and_a_worker_ended_from_outside_does_not(crashed, opens):
    async def scenario():
        rig = await two_versions()
        for worker in range(4):
            rig.residents["m/2"].error = lost_worker(worker, crashed)
            for _ in range(10):  # all that were in it
                assert (await ask(rig))[1] == 1
            await settle()
            assert bool(rig.host.open_breakers) is (opens and worker == 3)

    play(scenario)


@pytest.mark.parametrize(("own_share", "opens"), [(0.9, True), (0.1, False)])
def test_slowness_counts_only_when_it_is_the_versions_and_not_the_queues(own_share, opens):
    async def scenario():
        rig = await two_versions()
        rig.residents["m/2"].error = NoAnswerInTimeError("too slow", own_share=own_share)
        for _ in range(25):
            assert (await ask(rig))[1] == 1
        assert bool(rig.host.open_breakers) is opens

    play(scenario)


def test_a_version_that_hangs_is_given_up_early_enough_for_a_second_answer():
    async def scenario():
        rig = await two_versions(request_deadline=2.0)
        given: list[float] = []

        async def hang(*_request, timeout: float):  # noqa: ASYNC109 - as a resident has it
            given.append(timeout)
            await asyncio.sleep(0.01)
            raise NoAnswerInTimeError("too slow", own_share=1.0)

        rig.residents["m/1"].gate.set()
        assert await ask(rig, version=1) == ([1.0], 1)  # it is known to be fast now
        rig.residents["m/2"].infer = hang
        assert (await ask(rig))[1] == 1
        assert given[0] <= 1.5

    play(scenario)
