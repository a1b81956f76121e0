"""A report that repeats the one before is told by its bytes, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from control_world import AUTHORIZED, PLAN, REPORTS, SERVER, EachOfAPod, World, act, plan, report, run

from windlass_contract.report import ServingReport
from windlass_operator.control.wording import MAX_BYTES, wording_of


def said(sequence: int, **fields: Any) -> bytes:
    return json.dumps(report(sequence, **fields)).encode()


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_only_the_sequence_makes_no_difference(separators: tuple[str, str]) -> None:
    def found(sequence: int, **fields: Any) -> Any:
        return wording_of(json.dumps(report(sequence, **fields), separators=separators).encode())

    assert found(7).sequence == 7
    assert found(7).digest == found(1234).digest
    assert found(7, ready=True).digest != found(7).digest
    assert found(7, instance="00000000-0000-0002").digest != found(7).digest


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"a": 1}',
        b'{"sequence": -1}',
        b'{"sequence": 1.5}',
        b'{"sequence": 01}',
        b'{"sequence": 1e3}',
        b'{"sequence": "1"}',
        b'{"sequence": 12345678901234567}',
        b'{"sequence": 1, "x": {"sequence": 2}}',
        b'{"x\\"sequence": 1}',
        b'{"sequence": 1}' + b" " * MAX_BYTES,
    ],
)
def test_what_does_not_catch_the_eye_is_read(body: bytes) -> None:
    assert wording_of(body) is None


def test_where_the_sequence_stands_counts() -> None:
    first, second = b'{"sequence": 1, "a": "}"}', b'{"sequence": 12, "a": "}"}'
    assert wording_of(first).digest == wording_of(second).digest  # type: ignore[union-attr]
    moved = b'{"a": "}", "sequence": 1}'
    assert wording_of(moved).digest != wording_of(first).digest  # type: ignore[union-attr]


def test_a_report_that_repeats_the_one_before_is_not_read_and_counts_all_the_same(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Any] = []
    parse = ServingReport.parse

    def counted(value: object, source: str) -> ServingReport:
        parsed.append(value)
        return parse(value, source)

    monkeypatch.setattr(ServingReport, "parse", counted)

    async def scenario(each: World) -> None:
        act(each.hub, plan(2))
        news: list[str] = []
        each.hub.on_news = news.append
        for sequence in (1, 2, 5):
            status, body, _ = await each.post(REPORTS, data=said(sequence, plan=plan(2).to_dict(), ready=True))
            assert (status, body["epoch"]) == (200, 2)
        assert (len(parsed), len(news)) == (1, 1)
        (seen,) = each.hub.reports(SERVER)
        assert seen.report.to_dict() == report(5, plan=plan(2).to_dict(), ready=True)
        await each.post(REPORTS, data=said(4, plan=plan(2).to_dict(), ready=True))
        assert each.hub.reports(SERVER)[0].report.sequence == 5, "it was overtaken"
        each.clock.ahead += 100
        each.hub.confirm(SERVER)
        assert each.hub.subscribed(SERVER) == 0
        await each.post(REPORTS, data=said(6, plan=plan(2).to_dict(), ready=True))
        assert (len(parsed), len(news), each.hub.subscribed(SERVER)) == (1, 2, 1), "heard again after a silence is news"
        await each.post(REPORTS, data=said(7, plan=plan(2).to_dict(), ready=True, draining=True))
        assert (len(parsed), len(news)) == (2, 3)
        await each.post(REPORTS, data=said(8, plan=plan(2).to_dict(), ready=True))
        assert (len(parsed), len(news)) == (3, 4), "only the last one's words are remembered"
        each.clock.ahead += 400
        each.hub.confirm(SERVER)
        assert each.hub.reports(SERVER) == ()
        await each.post(REPORTS, data=said(9, plan=plan(2).to_dict(), ready=True))
        assert len(parsed) == 4, "who was silent for so long is forgotten, and his words with him"

    run(tmp_path, scenario)


def test_somebody_elses_words_are_refused_as_ever(tmp_path: Any) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        assert (await each.post(REPORTS, data=said(1), headers={"Authorization": "Bearer r1"}))[0] == 200
        status, body, _ = await each.post(REPORTS, data=said(2), headers={"Authorization": "Bearer r2"})
        assert (status, list(body)) == (403, ["error"])
        assert each.hub.reports(SERVER)[0].report.sequence == 1

    run(tmp_path, scenario, EachOfAPod())


def test_words_are_looked_up_for_the_server_that_the_token_is_for(tmp_path: Any) -> None:
    async def scenario(each: World) -> None:
        act(each.hub, plan(1))
        each.hub.open("horses")
        assert (await each.post(REPORTS, data=said(1)))[0] == 200
        status, _, _ = await each.post(
            PLAN.replace(SERVER, "horses").replace("/plan", "/reports"),
            data=said(2),
            headers={"Authorization": "Bearer secret-of-horses"},
        )
        assert status == 400
        assert (await each.post(REPORTS, data=said(2), headers=AUTHORIZED))[0] == 200

    run(tmp_path, scenario)
