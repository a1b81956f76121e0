"""The control endpoint over real HTTP: every answer that the protocol knows."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession
from aiohttp.test_utils import TestServer

from windlass_contract.canonical import digest_of_bytes
from windlass_contract.control import (
    MAX_REPORT_BYTES,
    POLL_SECONDS,
    REPORT_SECONDS,
    PlanAnswer,
    ReportAnswer,
)
from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.report import ServingReport
from windlass_operator.control import endpoint as endpoint_module
from windlass_operator.control.auth import FileTokens, Identity
from windlass_operator.control.endpoint import create_app
from windlass_operator.control.hub import Hub

SERVER = "cats-dogs"
DIGEST = "sha256:" + "a" * 64
AUTHORIZED = {"Authorization": "Bearer secret-of-cats"}
PLAN = f"/control/v1/servers/{SERVER}/plan"
REPORTS = f"/control/v1/servers/{SERVER}/reports"


def plan(epoch: int, server: str = SERVER) -> ServingPlan:
    version = PlannedVersion(version=1, digest=DIGEST, weight=1000)
    return ServingPlan.build(server, epoch, {"cats-dogs": ModelPlan(committed=1, versions=[version])})


def report(sequence: int = 0, instance: str = "00000000-0000-0001", **fields: Any) -> dict[str, Any]:
    return {"server": SERVER, "replica": "r1", "instance": instance, "sequence": sequence, **fields}


class Clock:
    """Real time, that a test can put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class World:
    def __init__(self, hub: Hub, clock: Clock, http: ClientSession, base: str, tokens: Path) -> None:
        self.hub, self.clock, self.http, self.base, self.tokens = hub, clock, http, base, tokens

    async def get(self, path: str, **options: Any) -> tuple[int, Any, ClientResponse]:
        return await self._request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> tuple[int, Any, ClientResponse]:
        return await self._request("POST", path, **options)

    async def _request(self, method: str, path: str, **options: Any) -> tuple[int, Any, ClientResponse]:
        options.setdefault("headers", AUTHORIZED)
        async with self.http.request(method, self.base + path, **options) as answer:
            body = await answer.read()
            return answer.status, json.loads(body) if answer.content_type == "application/json" else body, answer

    async def poll(self, held: ServingPlan | None, hold: str = "") -> PlanAnswer:
        query = f"?hold={hold}&instance=i" + (f"&epoch={held.epoch}&digest={held.digest}" if held else "")
        status, body, _ = await self.get(PLAN + query)
        assert status == 200, body
        return PlanAnswer.parse(body, "answer")


@asynccontextmanager
async def world(folder: Path, authenticator: Any = None) -> AsyncIterator[World]:
    tokens = folder / "tokens"
    tokens.mkdir(exist_ok=True)
    (tokens / SERVER).write_text("secret-of-cats\n")
    (tokens / "horses").write_text("secret-of-horses\n")
    clock = Clock()
    hub = Hub(clock=clock)
    server = TestServer(create_app(hub, authenticator or FileTokens(tokens)))
    await server.start_server()
    try:
        async with ClientSession() as http:
            yield World(hub, clock, http, str(server.make_url("")).rstrip("/"), tokens)
    finally:
        await server.close()


def act(hub: Hub, shown: ServingPlan | None, renewed: tuple[str, ...] = ()) -> None:
    hub.act()
    hub.open(SERVER)
    hub.confirm(SERVER)
    hub.publish(SERVER, shown, renewed)


def run(folder: Path, scenario: Callable[[World], Awaitable[None]], authenticator: Any = None) -> None:
    async def body() -> None:
        async with world(folder, authenticator) as each:
            await scenario(each)

    asyncio.run(body())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the condition is a task's, there is nothing to be told by
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("headers", "path", "status", "said"),
    [
        ({}, PLAN, 401, "is missing"),
        ({"Authorization": "Basic c2VjcmV0"}, PLAN, 401, "is missing"),
        ({"Authorization": "Bearer "}, PLAN, 401, "is missing"),
        ({"Authorization": "Bearer wrong"}, PLAN, 401, "unknown"),
        ({"Authorization": "Bearer " + "x" * 5000}, PLAN, 401, "is missing"),
        ({"Authorization": "Bearer secret-of-horses"}, PLAN, 403, "for server 'horses'"),
        ({"Authorization": "Bearer secret-of-horses"}, "/control/v1/servers/nobody/plan", 403, "for server 'horses'"),
        (AUTHORIZED, "/control/v1/servers/Not_A_Name/plan", 404, "DNS label"),
        (AUTHORIZED, "/control/v1/servers/..%2F..%2Fetc/plan", 404, "DNS label"),
        (AUTHORIZED, "/control/v2/anything", 404, "Not Found"),
        (AUTHORIZED, REPORTS, 405, "Method Not Allowed"),
        (AUTHORIZED, PLAN + "?epoch=minus&digest=" + DIGEST, 400, "epoch is a whole number"),
        (AUTHORIZED, PLAN + "?epoch=-1&digest=" + DIGEST, 400, "epoch is a whole number"),
        (AUTHORIZED, PLAN + "?epoch=1&digest=md5:1", 400, "digest is sha256"),
        (AUTHORIZED, PLAN + "?epoch=1", 400, "together"),
        (AUTHORIZED, PLAN + "?hold=0", 400, "hold is a number of seconds"),
        (AUTHORIZED, PLAN + "?hold=nan", 400, "hold is a number of seconds"),
        (AUTHORIZED, PLAN + "?hold=long", 400, "hold is a number of seconds"),
        (AUTHORIZED, f"/control/v1/servers/{SERVER}/samples/nonsense", 400, "64 hex digits"),
        (AUTHORIZED, f"/control/v1/servers/{SERVER}/samples/{DIGEST}", 404, "has samples"),
    ],
)
def test_what_is_wrong_with_a_request_is_said_with_its_status(
    tmp_path: Path, headers: dict[str, str], path: str, status: int, said: str
) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(3))
        got, body, _ = await each.get(path, headers=headers)
        assert (got, list(body)) == (status, ["error"])
        assert said in body["error"]

    run(tmp_path, scenario)


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


def test_a_token_is_rotated_while_the_operator_runs(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        assert (await each.get(PLAN))[0] == 200
        fresh = each.tokens / "fresh"
        fresh.write_text("another-secret")
        fresh.replace(each.tokens / SERVER)
        assert (await each.get(PLAN))[0] == 401
        assert (await each.get(PLAN, headers={"Authorization": "Bearer another-secret"}))[0] == 200
        (each.tokens / SERVER).write_text("")
        assert (await each.get(PLAN, headers={"Authorization": "Bearer another-secret"}))[0] == 401
        (each.tokens / SERVER).unlink()
        assert (await each.get(PLAN, headers={"Authorization": "Bearer another-secret"}))[0] == 401

    run(tmp_path, scenario)


def test_a_token_of_one_replica_reports_for_no_other(tmp_path: Path) -> None:
    class OfPods:
        async def identify(self, token: str, server: str) -> Identity | None:  # noqa: ARG002
            return Identity(SERVER, replica=token)

    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        assert (await each.post(REPORTS, json=report(), headers={"Authorization": "Bearer r1"}))[0] == 200
        status, body, _ = await each.post(REPORTS, json=report(), headers={"Authorization": "Bearer r2"})
        assert (status, list(body)) == (403, ["error"])

    run(tmp_path, scenario, OfPods())


def test_samples_are_had_by_digest(tmp_path: Path) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        data = b'{"samples": []}'
        each.hub.offer_samples(SERVER, {digest_of_bytes(data): data})
        status, body, _ = await each.get(f"/control/v1/servers/{SERVER}/samples/{digest_of_bytes(data)}")
        assert (status, body) == (200, data)

    run(tmp_path, scenario)


def test_a_fault_of_the_operator_is_answered_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def identify(self, token: str, server: str) -> Identity | None:  # noqa: ARG002
            raise ZeroDivisionError

    async def scenario(each: World) -> None:
        status, body, _ = await each.get(PLAN)
        assert (status, list(body)) == (500, ["error"])

    run(tmp_path, scenario, Broken())


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
