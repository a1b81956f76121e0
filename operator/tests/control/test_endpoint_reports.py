"""The control endpoint over real HTTP: reports in, and what their answers say."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from control_world import AUTHORIZED, PLAN, REPORTS, SERVER, World, act, plan, report, run

from windlass_contract.control import (
    MAX_REPORT_BYTES,
    REPORT_SECONDS,
    ReportAnswer,
)
from windlass_contract.plan import ServingPlan
from windlass_contract.report import ServingReport
from windlass_operator.control.hub import Hub


def test_while_the_operator_gathers_there_is_no_answer_but_reports_count(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        each.hub.act()
        each.hub.open(SERVER)
        each.hub.confirm(SERVER)
        assert (await each.get(PLAN))[0] == 503
        assert (await each.post(REPORTS, json=report()))[0] == 503
        assert [seen.report.replica for seen in each.hub.reports(SERVER)] == ["r1"]
        each.hub.publish(SERVER, None)
        assert (await each.post(REPORTS, json=report(1)))[:2] == (200, {"epoch": None, "reportSeconds": 1.0})

    run(tmp_path, scenario)


def test_a_renewal_is_for_the_epoch_that_it_was_decided_for(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1), renewed=("cats-dogs",))
        each.hub.publish(SERVER, plan(2))
        _, body, _ = await each.post(REPORTS, json=report())
        assert ReportAnswer.parse(body, "answer") == ReportAnswer(epoch=2, renewed=[])

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("shown", "quiet", "renewed", "said", "seconds"),
    [
        (plan(2), True, (), {"plan": plan(2).to_dict()}, 2.02),
        (None, True, (), {}, 2.02),
        (plan(2), False, (), {"plan": plan(2).to_dict()}, REPORT_SECONDS),
        (None, False, (), {}, REPORT_SECONDS),
        (plan(2), True, ("cats-dogs",), {"plan": plan(2).to_dict()}, REPORT_SECONDS),
        (plan(2), True, (), {"plan": plan(1).to_dict()}, REPORT_SECONDS),
        (plan(2), True, (), {}, REPORT_SECONDS),
        (None, True, (), {"plan": plan(1).to_dict()}, REPORT_SECONDS),
        (plan(2), True, (), {"plan": ServingPlan.build(SERVER, 2, {}).to_dict()}, REPORT_SECONDS),
        (plan(2), True, (), {"plan": plan(2).to_dict(), "planConflict": True}, REPORT_SECONDS),
        (plan(2), True, (), {"plan": plan(2).to_dict(), "draining": True}, REPORT_SECONDS),
    ],
)
def test_only_while_nothing_is_under_way_reports_are_wanted_less_often(
    shown: ServingPlan | None, quiet: bool, renewed: tuple[str, ...], said: dict[str, Any], seconds: float
) -> None:
    hub = Hub(clock=lambda: 301.0)
    act(hub, None)
    hub.publish(SERVER, shown, renewed, quiet=quiet)
    answer = hub.take_report(SERVER, ServingReport.parse(report(**said), "report"))
    assert answer.report_seconds == seconds


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        (300.0, 3.0),
        (300.02, 3.0),
        (300.5, 2.52),
        (301.9, 1.12),
        (302.5, 1.0),  # too near: it comes a bit after the beat, and is asked for the next one then
        (302.999, 1.0),
    ],
)
def test_quiet_replicas_are_all_to_report_just_after_the_same_beat(now: float, seconds: float) -> None:
    hub = Hub(clock=lambda: now)
    act(hub, None)
    hub.publish(SERVER, None, quiet=True)
    assert hub.take_report(SERVER, ServingReport.parse(report(), "report")).report_seconds == seconds


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"server": NaN}', 400, "NaN is not JSON"),
        (b"[]", 400, "the report"),
        (json.dumps(report() | {"server": "horses"}).encode(), 400, "is of server 'horses'"),
        (json.dumps(report() | {"sequence": -1}).encode(), 400, "sequence is -1"),
        (json.dumps({"server": SERVER}).encode(), 400, "instance: it is missing"),
        (json.dumps(report() | {"plan": plan(1).to_dict() | {"epoch": 2}}).encode(), 400, "the plan's digest"),
        (b" " * (MAX_REPORT_BYTES + 1), 413, "too large"),
    ],
    ids=["empty", "cut", "deep", "nan", "list", "another's", "negative", "incomplete", "forged plan", "large"],
)
def test_a_damaged_report_is_refused_and_says_what_is_wrong(
    tmp_path: Path, body: bytes, status: int, said: str
) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        got, answer, _ = await each.post(REPORTS, data=io.BytesIO(body))
        assert (got, list(answer)) == (status, ["error"])
        assert said in answer["error"]
        assert each.hub.reports(SERVER) == ()

    run(tmp_path, scenario)


def test_a_report_with_an_epoch_that_can_not_be_counted_on_from_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        status, answer, _ = await each.post(REPORTS, json=report() | {"plan": plan(2**53 - 1).to_dict()})
        assert status == 400
        assert "replica 'r1' reports a plan of epoch 9007199254740991" in answer["error"]
        assert each.hub.reports(SERVER) == ()
        assert (await each.post(REPORTS, json=report() | {"plan": plan(2**52).to_dict()}))[0] == 200
        each.hub.publish(SERVER, plan(2**52 + 1))
        mine = report() | {"sequence": 2, "plan": plan(2**52 + 1).to_dict()}
        assert (await each.post(REPORTS, json=mine))[0] == 200, "it is the operator's own"

    run(tmp_path, scenario)


def test_a_compressed_report_is_bounded_by_what_it_unpacks_to(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        headers = AUTHORIZED | {"Content-Encoding": "gzip"}
        small = gzip.compress(json.dumps(report()).encode())
        assert (await each.post(REPORTS, data=small, headers=headers))[0] == 200
        bomb = gzip.compress(b" " * (MAX_REPORT_BYTES * 8))
        status, body, _ = await each.post(REPORTS, data=bomb, headers=headers)
        assert (status, list(body)) == (413, ["error"])

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("said", "status", "same"),
    [
        (plan(2).to_dict(), 200, True),
        (plan(1).to_dict(), 200, False),
        ({**plan(2).to_dict(), "epoch": 3}, 400, False),
        ({**plan(2).to_dict(), "extra": 1}, 400, False),
    ],
)
def test_a_report_keeps_the_plan_that_it_names_and_shares_the_one_shown(
    tmp_path: Path, said: dict[str, Any], status: int, same: bool
) -> None:
    async def scenario(each: World) -> None:
        shown = plan(2)
        act(each.hub, shown)
        given = report(plan=said, ready=True)
        assert (await each.post(REPORTS, json=given))[0] == status
        if status == 200:
            (seen,) = each.hub.reports(SERVER)
            assert seen.report.to_dict() == given
            assert (seen.report.plan is shown) is same

    run(tmp_path, scenario)


def test_a_large_report_is_taken_whole(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        models = {f"m{n}": {"versions": [{"version": 1, "state": "Prepared"}]} for n in range(3000)}
        assert (await each.post(REPORTS, json=report(models=models)))[0] == 200
        assert len(each.hub.reports(SERVER)[0].report.models) == 3000

    run(tmp_path, scenario)


def test_reports_are_kept_by_instance_with_their_age(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        news: list[str] = []
        each.hub.on_news = news.append
        first, second = "00000000-0000-0001", "00000000-0000-0002"
        await each.post(REPORTS, json=report(5, first))
        await each.post(REPORTS, json=report(0, second, ready=True))
        assert news == [SERVER, SERVER]
        await each.post(REPORTS, json=report(6, first))
        assert len(news) == 2, "the same again is no news"
        await each.post(REPORTS, json=report(4, first, draining=True))
        assert len(news) == 2, "an overtaken report is not taken"
        await each.post(REPORTS, json=report(7, first, ready=True))
        assert len(news) == 3
        each.clock.ahead += 100
        await each.post(REPORTS, json=report(8, first, ready=True))
        assert len(news) == 4, "heard again after a silence is news"
        ages = {seen.report.instance: seen.age for seen in each.hub.reports(SERVER)}
        assert ages[first] < 50 < 100 <= ages[second]
        assert each.hub.subscribed(SERVER) == 1
        each.clock.ahead += 250
        assert [seen.report.instance for seen in each.hub.reports(SERVER)] == [first]

    run(tmp_path, scenario)


def test_more_instances_than_a_server_can_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windlass_operator.control.registry.MAX_INSTANCES", 2)

    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        answers = [await each.post(REPORTS, json=report(0, f"00000000-000{n}")) for n in range(3)]
        assert [answer[0] for answer in answers] == [200, 200, 429]
        each.clock.ahead += 400
        assert (await each.post(REPORTS, json=report(0, "00000000-0009")))[0] == 503, "unconfirmed by then"
        assert len(each.hub.reports(SERVER)) == 1

    run(tmp_path, scenario)
