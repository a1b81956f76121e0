"""The sources of a plan, each for itself: copy, durable plan, subscription, and the folder of an unmanaged replica."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from windlass_contract.canonical import digest_of_bytes
from windlass_contract.control import PLAN_PATH, REPORT_PATH, SAMPLES_PATH
from windlass_contract.document import DocumentError
from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.record import ServerState
from windlass_contract.report import ServingReport
from windlass_contract.samples import MAX_SAMPLES_BYTES
from windlass_server.following import plan_copy
from windlass_server.following import subscription as subscription_module
from windlass_server.following.durable_plan import DurablePlan
from windlass_server.following.subscription import Subscription
from windlass_server.following.unmanaged import Folder, Found, choose
from windlass_server.hosting.host import SamplesUnavailable
from windlass_server.hosting.order import Key
from windlass_testing import connections_closed
from windlass_testing.models import affine_tflite


def plan(epoch: int, server: str = "one") -> ServingPlan:
    return ServingPlan.build(server, epoch, {"m": ModelPlan()})


def written(path: Path, document: ServingPlan | None) -> None:
    path.write_text(json.dumps(ServerState(server="one", plan=document).to_dict()))


# --- the replica's own copy ---


def test_the_copy_reads_back_equal_fields_of_a_newer_operator_included(tmp_path):
    content = {"server": "one", "epoch": 4, "models": {"m": {"fromTheFuture": [1, {"a": None}]}}}
    newer = ServingPlan.model_validate({**content, "digest": digest_of_bytes(_canonical(content))})
    plan_copy.save(tmp_path, newer)
    read = plan_copy.load(tmp_path)
    assert read is not None
    assert read.to_dict() == newer.to_dict()
    assert (tmp_path / "plan.json").stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["plan.json"]


def _canonical(value) -> bytes:
    from windlass_contract.canonical import canonical_json

    return canonical_json(value)


def test_no_copy_is_no_plan_and_a_damaged_one_names_the_file(tmp_path):
    assert plan_copy.load(tmp_path) is None
    plan_copy.save(tmp_path, plan(1))
    path = tmp_path / "plan.json"
    path.write_text(path.read_text().replace('"epoch":1', '"epoch":2'))
    with pytest.raises(DocumentError, match=r"plan\.json: .*damaged or edited by hand"):
        plan_copy.load(tmp_path)


def test_a_copy_that_cannot_be_written_leaves_the_old_one(tmp_path):
    plan_copy.save(tmp_path, plan(1))
    (tmp_path / ".plan.json.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="link"):
        plan_copy.save(tmp_path, plan(2))
    assert plan_copy.load(tmp_path) == plan(1)
    assert not (tmp_path / "elsewhere").exists()


# --- the durable plan ---


def test_the_durable_plan_keeps_the_last_good_one_and_says_what_is_wrong(tmp_path):
    path = tmp_path / "one.json"
    durable = DurablePlan(path)
    assert durable.look() is None
    assert "missing" in durable.problem
    written(path, plan(1))
    assert durable.look() == plan(1)
    assert durable.problem == ""
    for damage in ("{", json.dumps({"server": "one", "plan": {**plan(2).to_dict(), "epoch": 3}}), "[]"):
        part = tmp_path / "part"
        part.write_text(damage)
        part.replace(path)
        assert durable.look() == plan(1)
        assert str(path) in durable.problem
        assert "last good plan stays" in durable.problem
    written(tmp_path / "part", plan(2))
    (tmp_path / "part").replace(path)
    assert durable.look() == plan(2)
    path.unlink()
    assert durable.look() == plan(2)
    assert "missing" in durable.problem


def test_an_unchanged_file_is_not_read_again(tmp_path, monkeypatch):
    path = tmp_path / "one.json"
    written(path, plan(1))
    durable = DurablePlan(path)
    durable.look()
    monkeypatch.setattr("windlass_server.following.durable_plan.read_state", None)
    assert durable.look() == plan(1)


def test_the_kubelets_way_of_swapping_a_mounted_file_is_seen(tmp_path):
    for name, epoch in (("..1", 1), ("..2", 2)):
        (tmp_path / name).mkdir()
        written(tmp_path / name / "plan.json", plan(epoch))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "plan.json").symlink_to("..data/plan.json")
    durable = DurablePlan(tmp_path / "plan.json")
    assert durable.look() == plan(1)
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert durable.look() == plan(2)


# --- the subscription ---


class Listener:
    """A subscriber that remembers what it was told."""

    def __init__(self) -> None:
        self.plan: ServingPlan | None = None
        self.told: list[int | None] = []
        self.renewed: list[str] = []

    def answered(self, offered, _source) -> bool:
        self.told.append(offered.epoch if offered else None)
        self.plan = offered
        return True

    def acknowledged(self, answer) -> None:
        self.renewed += answer.renewed

    def report(self) -> ServingReport:
        return ServingReport(server="one", replica="r", instance="00000001", sequence=len(self.told))


@asynccontextmanager
async def following(tmp_path: Path, handlers: dict[str, object], listener: Listener | None = None):
    """A subscription to an operator that answers as the test says, by path."""
    app = web.Application()
    app.router.add_get(PLAN_PATH, handlers.get("plan", _hold))
    app.router.add_post(REPORT_PATH, handlers.get("report", _hold))
    app.router.add_get(SAMPLES_PATH, handlers.get("samples", _hold))
    token = tmp_path / "token"
    token.write_text("a-token\n")
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        subscription = Subscription(url, "one", "00000001", token, None, listener or Listener())
        task = asyncio.create_task(subscription.run())
        try:
            yield subscription
        finally:
            task.cancel()
            await asyncio.wait([task])


async def _hold(_request):
    await asyncio.sleep(60)


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what it waits for is another's state
            await asyncio.sleep(0.01)


def test_plans_are_polled_and_reports_posted_with_the_token_read_anew(tmp_path):
    seen: list[tuple[str, str]] = []

    async def give_plan(request):
        seen.append((request.headers["Authorization"], request.query_string))
        epoch = int(request.query.get("epoch", "0"))
        if epoch == 2:
            await _hold(request)
        # By what it has: a poll is asked anew when a report is answered first.
        return web.json_response({"plan": plan(min(epoch + 1, 2)).to_dict()})

    async def take_report(request):
        assert (await request.json())["sequence"] >= 0
        return web.json_response({"epoch": 2, "renewed": ["m"]})

    async def scenario():
        listener = Listener()
        async with following(tmp_path, {"plan": give_plan, "report": take_report}, listener) as subscription:
            await until(lambda: listener.told == [1, 2])
            assert subscription.problem == ""
            assert seen[0] == ("Bearer a-token", "instance=00000001&hold=25")
            assert f"instance=00000001&hold=25&epoch=1&digest={plan(1).digest}" in [query for _, query in seen]
            before = len(listener.renewed)
            subscription.something_changed()
            await until(lambda: len(listener.renewed) > before)

    connections_closed.run(scenario())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (web.json_response, "more than|not an object|the plan of"),
        (lambda _: web.Response(status=401, text='{"error": "unknown token"}'), "answered 401: unknown token; is"),
        (lambda _: web.Response(status=403, text='{"error": "no"}'), "another server's: correct --server"),
        (lambda _: web.Response(status=404, text="<html>"), "port 8010"),
        (lambda _: web.Response(status=302, headers={"Location": "/x"}), "answered 302"),
        (lambda _: web.Response(text="{"), "it is not JSON"),
        (lambda _: web.Response(body=b" " * (4 * 1024 * 1024 + 1)), "has more than 4194304 bytes"),
        (
            lambda _: web.json_response({"plan": {**plan(1).to_dict(), "epoch": 9}}),
            "damaged or edited by hand",
        ),
    ],
)
def test_whatever_an_operator_answers_is_bounded_checked_and_named(tmp_path, answer, told):
    async def handle(_request):
        return answer({"plan": 5}) if answer is web.json_response else answer(None)

    async def scenario():
        listener = Listener()
        async with following(tmp_path, {"plan": handle}, listener) as subscription:
            await until(lambda: subscription.problem)
            import re

            assert re.search(told, subscription.problem), subscription.problem
            assert listener.told == []
            assert subscription.settled.is_set()

    connections_closed.run(scenario())


def test_an_operator_that_is_just_starting_is_waited_for(tmp_path):
    async def handle(_request):
        return web.json_response({"error": "still gathering"}, status=503)

    async def scenario():
        async with following(tmp_path, {"plan": handle}) as subscription:
            await until(lambda: "answered 503" in subscription.problem)
            assert not subscription.settled.is_set()

    connections_closed.run(scenario())


def test_once_a_report_is_answered_the_plan_is_asked_for_however_long_the_operator_was_away(tmp_path, monkeypatch):
    monkeypatch.setattr(subscription_module, "BACKOFF_SECONDS", (600.0, 600.0))
    away = True

    async def handle_plan(request):
        if away:
            return web.json_response({"error": "away"}, status=503)
        if request.query.get("epoch"):
            await _hold(request)
        return web.json_response({"plan": plan(1).to_dict()})

    async def handle_report(_request):
        return web.json_response({"error": "away"}, status=503) if away else web.json_response({"epoch": 1})

    async def scenario():
        nonlocal away
        listener = Listener()
        async with following(tmp_path, {"plan": handle_plan, "report": handle_report}, listener) as subscription:
            await until(lambda: subscription.problem)
            away = False
            await until(lambda: listener.told == [1])

    connections_closed.run(scenario())


def test_an_operator_says_when_it_wants_the_next_report_and_one_that_fails_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(subscription_module, "between_reports", lambda asked: {1.0: 0.2, 3.0: 600.0}[asked])
    asks: list[float | None] = [None, None, 3.0]
    reports = 0
    broken = asyncio.Event()

    async def handle_plan(request):
        if request.query.get("epoch"):
            await broken.wait()
            request.transport.abort()
        return web.json_response({"plan": plan(1).to_dict()})

    async def handle_report(_request):
        nonlocal reports
        reports += 1
        asked = asks[reports - 1] if reports <= len(asks) else 3.0
        return web.json_response({"epoch": 1} if asked is None else {"epoch": 1, "reportSeconds": asked})

    async def scenario():
        listener = Listener()
        async with following(tmp_path, {"plan": handle_plan, "report": handle_report}, listener) as subscription:
            # The first two answers say nothing, as an older operator's: the normal time between reports.
            await until(lambda: reports == 3)
            await asyncio.sleep(0.5)  # in which more would come; the next is due in ten minutes
            assert reports == 3
            subscription.something_changed()
            await until(lambda: reports == 4)
            broken.set()
            await until(lambda: reports >= 5)

    connections_closed.run(scenario())


def test_a_plan_that_a_report_is_told_of_is_asked_for_although_a_poll_waits(tmp_path):
    polls: list[str | None] = []
    epoch = 1

    async def handle_plan(request):
        held = request.query.get("epoch")
        polls.append(held)
        if held == "1" and polls.count("1") == 1:
            await _hold(request)  # lost on its way: nothing ever wakes it
        if held == str(epoch):
            await _hold(request)
        if held == "1":
            await asyncio.sleep(1.5)  # longer than it takes to be told of the same epoch again
        return web.json_response({"plan": plan(epoch).to_dict()})

    async def handle_report(_request):
        return web.json_response({"epoch": epoch})

    async def scenario():
        nonlocal epoch
        listener = Listener()
        async with following(tmp_path, {"plan": handle_plan, "report": handle_report}, listener) as subscription:
            await until(lambda: polls.count("1") == 1)  # a report's answer may have come before the first poll's
            epoch = 2
            subscription.something_changed()
            await until(lambda: listener.told == [1, 2])
            assert [each for each in polls if each][:2] == ["1", "1"], (
                "an answer that is slow to arrive was not waited for"
            )
            assert subscription.problem == ""

    connections_closed.run(scenario())


def test_who_holds_the_operators_plan_already_need_not_wait_for_a_poll_to_end(tmp_path):
    async def handle_report(_request):
        return web.json_response({"epoch": 4})

    async def scenario():
        listener = Listener()
        listener.plan = plan(4)
        async with following(tmp_path, {"report": handle_report}, listener) as subscription, asyncio.timeout(30):
            await subscription.settled.wait()

    connections_closed.run(scenario())


def test_after_a_silence_it_connects_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(subscription_module, "SILENCE_SECONDS", 0.3)
    connections = set()

    async def handle(request):
        connections.add(request.transport.get_extra_info("peername"))
        await _hold(request)

    async def scenario():
        async with following(tmp_path, {"plan": handle, "report": handle}):
            await until(lambda: len(connections) >= 4)  # two each time

    connections_closed.run(scenario())


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"samples":[{"inputs":{"x":1},"expect":{"values":2}}]}', ""),
        (b"samples:\n- inputs: {x: 1}\n  expect: {values: 2}\n", ""),
        (b'{"samples":[]}', "samples"),
        (b'{"samples":[{"inputs":{"x":1},"expect":{}}]}', "exactly one of classIndex"),
        (b"{" + b" " * MAX_SAMPLES_BYTES, "has more than"),
        (None, "arrived with other bytes"),
    ],
)
def test_acceptance_samples_are_bounded_and_checked_against_their_digest(tmp_path, body, problem):
    async def handle(_request):
        return web.Response(body=body if body is not None else b"{}")

    async def scenario():
        async with following(tmp_path, {"samples": handle}) as subscription:
            await until(lambda: subscription._session is not None)
            digest = digest_of_bytes(body or b"something else")
            if problem:
                with pytest.raises(SamplesUnavailable, match=problem):
                    await subscription.samples(digest)
            else:
                assert (await subscription.samples(digest)).samples[0].expect.values == 2

    connections_closed.run(scenario())


def test_an_unreadable_token_file_is_named(tmp_path):
    async def scenario():
        async with following(tmp_path, {}) as subscription:
            (tmp_path / "token").unlink()
            subscription.something_changed()
            await until(lambda: f"{tmp_path / 'token'} can't be read: No such file" in subscription.problem)

    connections_closed.run(scenario())


# --- without a plan source ---


def found(version: int, model: str = "m") -> Found:
    return Found(Key(model, version, f"sha256:{version:064d}"), f"{model}/{version}")


def of(*versions: int) -> set[Key]:
    return {found(version).key for version in versions}


def model(committed: int, candidate: int | None = None) -> dict:
    weights = {committed: 1000} | ({candidate: 0} if candidate else {})
    return {
        "m": ModelPlan(
            committed=committed,
            candidate=candidate,
            versions=[
                PlannedVersion(version=version, digest=f"sha256:{version:064d}", path=f"m/{version}", weight=weight)
                for version, weight in weights.items()
            ],
        )
    }


@pytest.mark.parametrize(
    ("case", "complete", "failed", "troubled", "present", "expected"),
    [
        ("nothing there", [], set(), set(), {}, {}),
        ("the highest", [1, 3, 2], set(), set(), {}, model(3)),
        ("the next lower when the highest failed", [1, 2, 3], of(3), set(), model(3), model(2)),
        ("the lowest when the others failed", [1, 2, 3], of(2, 3), set(), {}, model(1)),
        ("the highest is shown when all failed", [1, 2], of(1, 2), set(), {}, model(2)),
        ("what can't be loaded now stays a candidate", [1, 2], set(), of(2), {}, model(1, 2)),
        ("what can't be loaded now and has nothing below it is tried", [2], set(), of(2), {}, model(2)),
        ("a failed one isn't kept as a candidate", [1, 2, 3], of(3), of(2), {}, model(1, 2)),
        ("what serves goes on when its folder is gone", [], set(), set(), model(2), model(2)),
        ("a lower one serves when the highest is removed", [1], set(), set(), model(2), model(1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_a_plan_it_serves(case, complete, failed, troubled, present, expected):
    assert choose([found(version) for version in complete], failed, troubled, present) == expected


def test_the_folder_is_read_as_tensorflow_serving_does_and_what_is_not_served_is_named(tmp_path):
    affine_tflite(tmp_path, "m", 1, 1, 0)
    affine_tflite(tmp_path, "m", 2, 1, 0).rename(tmp_path / "m" / "7")
    (tmp_path / "m" / "9").mkdir()
    (tmp_path / "m" / "notes").mkdir()
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    (tmp_path / "a b" / "1").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    affine_tflite(tmp_path, "n", 3, 1, 0).rename(tmp_path / "n" / "0003")
    folder = Folder(tmp_path)
    for _ in range(2):
        look = folder.look()
        assert [(each.key.model, each.key.version, each.path) for each in look.complete] == [
            ("m", 1, "m/1"),
            ("n", 3, "n/0003"),
        ]
        reasons = dict(look.reasons)
        assert set(reasons) == {str(tmp_path / "m" / "7"), str(tmp_path / "m" / "9"), str(tmp_path / "a b")}
        assert "windlass pack" in reasons[str(tmp_path / "m" / "9")]
        assert "its folder says 'm' version 7" in reasons[str(tmp_path / "m" / "7")]
    manifest = tmp_path / "m" / "1" / "manifest.json"
    value = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**value, "producer": {"a": "b"}}))
    again = folder.look()
    assert again.complete[0].key.digest != look.complete[0].key.digest


def test_a_folder_of_models_that_cannot_be_read_is_named(tmp_path):
    look = Folder(tmp_path / "gone").look()
    assert look.complete == ()
    assert "can't be read" in next(iter(look.reasons.values()))
    assert os.fspath(tmp_path) in next(iter(look.reasons))


def test_a_folder_whose_name_is_no_text_can_be_told_of(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9") / "1").mkdir(parents=True)
    (reason,) = Folder(tmp_path).look().reasons.values()
    assert "caf\\udce9" in reason
    reason.encode()
