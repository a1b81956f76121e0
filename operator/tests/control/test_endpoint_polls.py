"""The control endpoint over real HTTP: who subscribes has each plan at once, and none too often."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from control_world import PLAN, REPORTS, SERVER, World, act, plan, report, run, until

from windlass_contract.control import (
    POLL_SECONDS,
    QUIET_REPORT_SECONDS,
    PlanAnswer,
)
from windlass_contract.plan import ModelPlan, ServingPlan
from windlass_operator.control import endpoint as endpoint_module
from windlass_operator.control.hub import hold_to_beat


def test_who_holds_another_plan_or_none_has_the_plan_at_once(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(3))
        for held in (None, plan(2)):
            started = time.monotonic()
            assert (await each.poll(held)).plan == plan(3)
            assert time.monotonic() - started < POLL_SECONDS / 2

    run(tmp_path, scenario)


def test_publishing_a_plan_wakes_every_poll_within_a_second(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        polls = [asyncio.create_task(each.poll(plan(1))) for _ in range(50)]
        await asyncio.sleep(0.3)
        assert not any(poll.done() for poll in polls)
        started = time.monotonic()
        each.hub.publish(SERVER, plan(2))
        answers = await asyncio.gather(*polls)
        assert time.monotonic() - started < 1
        assert {answer.plan.epoch for answer in answers if answer.plan} == {2}

    run(tmp_path, scenario)


@pytest.mark.parametrize(("hold", "seconds"), [("", 0.3), ("0.6", 0.6), ("3600", 0.9)])
def test_a_poll_without_news_is_answered_with_the_same_plan_after_the_time_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: str, seconds: float
) -> None:
    monkeypatch.setattr(endpoint_module, "POLL_SECONDS", 0.3)
    monkeypatch.setattr(endpoint_module, "LONG_POLL_SECONDS", 0.9)

    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        started = time.monotonic()
        assert (await each.poll(plan(1), hold)).plan == plan(1)
        assert seconds <= time.monotonic() - started < seconds + 20
        act(each.hub, None)
        assert (await each.poll(None, hold)).plan is None

    run(tmp_path, scenario)


@pytest.mark.parametrize("held", [plan(9), ServingPlan.build(SERVER, 3, {})], ids=["older", "same epoch"])
def test_a_plan_that_a_replica_has_to_refuse_is_not_sent_in_a_hot_loop(tmp_path: Path, held: ServingPlan) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(3))
        started = time.monotonic()
        poll = asyncio.create_task(each.poll(held))
        assert (await poll).plan == plan(3)
        assert time.monotonic() - started >= 0.9
        poll = asyncio.create_task(each.poll(held))
        await asyncio.sleep(0.1)
        each.hub.publish(SERVER, plan(10))
        answer = await poll
        assert answer.plan is not None
        assert answer.plan.epoch == 10

    run(tmp_path, scenario)


def test_an_operator_that_does_not_act_answers_503_and_ends_the_polls(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        status, body, answer = await each.get(PLAN)
        assert (status, list(body), answer.headers["Retry-After"]) == (503, ["error"], "1")
        act(each.hub, plan(1))
        poll = asyncio.create_task(each.get(PLAN + f"?epoch=1&digest={plan(1).digest}"))
        await asyncio.sleep(0.2)
        each.hub.rest("another operator acts")
        status, body, _ = await poll
        assert (status, body) == (503, {"error": "another operator acts"})

    run(tmp_path, scenario)


def test_without_a_confirmed_hold_nothing_is_answered_and_no_weight_renewed(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1), renewed=("cats-dogs",))
        status, body, _ = await each.post(REPORTS, json=report())
        assert (status, body) == (200, {"epoch": 1, "renewed": ["cats-dogs"], "reportSeconds": 1.0})
        each.clock.ahead += 4.5
        assert (await each.post(REPORTS, json=report(1)))[1]["renewed"] == ["cats-dogs"]
        each.clock.ahead += 1
        for status, body, _ in (await each.post(REPORTS, json=report(2)), await each.get(PLAN)):
            assert status == 503
            assert "confirm" in body["error"]
        each.hub.confirm(SERVER)
        assert (await each.get(PLAN))[0] == 200

    run(tmp_path, scenario)


def test_a_plan_keeps_every_field_that_it_was_made_with(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        newer = plan(4).to_dict()
        models = {**newer["models"], "cats-dogs": {**newer["models"]["cats-dogs"], "ofANewerOperator": [1]}}
        act(each.hub, ServingPlan.build(SERVER, 4, {name: ModelPlan.parse(each, "") for name, each in models.items()}))
        status, body, _ = await each.get(PLAN)
        assert status == 200
        assert body["plan"]["models"]["cats-dogs"]["ofANewerOperator"] == [1]
        PlanAnswer.parse(body, "its digest is checked here")

    run(tmp_path, scenario)


def test_a_client_that_goes_away_leaves_the_others_alone(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        leaving = asyncio.create_task(each.poll(plan(1)))
        staying = asyncio.create_task(each.poll(plan(1)))
        await asyncio.sleep(0.2)
        leaving.cancel()
        await until(leaving.done)
        each.hub.publish(SERVER, plan(2))
        assert (await staying).plan == plan(2)

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("now", "hold", "seconds"),
    [
        (300.0, 25.0, 24.02),
        (300.02, 25.0, 24.0),
        (301.5, 25.0, 22.52),
        (302.0, 25.0, 22.02),
        (302.02, 25.0, 25.0),
        (301.5, 5.0, 5.0),  # short ones end when they are asked to
        (301.5, 0.6, 0.6),
    ],
)
def test_long_polls_end_together_with_the_reports_that_come_at_the_same_beat(
    now: float, hold: float, seconds: float
) -> None:
    assert hold_to_beat(now, hold) == pytest.approx(seconds)
    assert hold - QUIET_REPORT_SECONDS < hold_to_beat(now, hold) <= hold
