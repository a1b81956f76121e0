"""The control endpoint over real HTTP: who is answered, and what is said of a request that isn't."""

from __future__ import annotations

from pathlib import Path

import pytest
from control_world import AUTHORIZED, DIGEST, PLAN, REPORTS, SERVER, EachOfAPod, World, act, plan, report, run

from windlass_contract.canonical import digest_of_bytes
from windlass_operator.control.auth import Identity


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
    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        assert (await each.post(REPORTS, json=report(), headers={"Authorization": "Bearer r1"}))[0] == 200
        status, body, _ = await each.post(REPORTS, json=report(), headers={"Authorization": "Bearer r2"})
        assert (status, list(body)) == (403, ["error"])

    run(tmp_path, scenario, EachOfAPod())


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
