"""What live, ready and healthy mean: one case for each sentence of the design."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from windlass_contract.report import VersionState
from windlass_server.health import (
    MAX_LOOP_LAG_SECONDS,
    Facts,
    ModelFacts,
    PlanSource,
    ReplicaHealth,
    VersionFacts,
    health,
    http_status,
    live,
    ready,
)

PREPARED, LOADING, FAILED, WAITING = (
    VersionState.PREPARED,
    VersionState.LOADING,
    VersionState.FAILED,
    VersionState.WAITING,
)
NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def facts(source: PlanSource = PlanSource.OPERATOR, models: dict[str, ModelFacts] | None = None, **more) -> Facts:
    return Facts(source=source, models=models or {}, **more)


def model(*states: VersionState, answers: bool | None = None, message: str = "") -> ModelFacts:
    """Versions 1, 2, …; the first has all traffic."""
    versions = tuple(
        VersionFacts(number, state, gets_traffic=number == 1, message="" if state is PREPARED else message)
        for number, state in enumerate(states, start=1)
    )
    return ModelFacts(versions, answers=states[0] is PREPARED if answers is None else answers)


SERVING = {"m": model(PREPARED)}
STARTING = {"m": model(LOADING)}
HELD_BACK = {"a": model(PREPARED), "b": ModelFacts((VersionFacts(2, LOADING, gets_traffic=False),), held_back=True)}
EMPTY = {"m": ModelFacts((VersionFacts(1, PREPARED, gets_traffic=False),))}


@pytest.mark.parametrize(
    ("sentence", "given", "expected"),
    [
        ("the event loop turns", facts(loop_lag_seconds=0.2), True),
        ("the event loop stands still", facts(loop_lag_seconds=MAX_LOOP_LAG_SECONDS + 1), False),
        ("no worker may be stuck", facts(models=SERVING, stuck=("the worker of m/1 doesn't answer",)), False),
        ("nothing outside counts: no operator", facts(PlanSource.WAITING, notes=("the operator is away",)), True),
        ("nothing outside counts: no database", facts(models=SERVING, database="unavailable"), True),
        ("a model that fails doesn't count", facts(models={"m": model(FAILED)}), True),
        ("draining is alive", facts(models=SERVING, draining=True), True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_live(sentence, given, expected):
    answer, reasons = live(given)
    assert answer is expected
    assert bool(reasons) is not expected


@pytest.mark.parametrize(
    ("sentence", "given", "expected"),
    [
        ("every version with traffic is prepared", facts(models=SERVING), True),
        ("one of them isn't yet", facts(models={"a": model(PREPARED), "b": model(LOADING)}), False),
        ("a version without traffic doesn't count", facts(models={"m": model(PREPARED, LOADING)}), True),
        ("a candidate that fails doesn't count", facts(models={"m": model(PREPARED, FAILED)}), True),
        ("empty is not ready", facts(), False),
        ("no traffic planned is not ready", facts(models=EMPTY), False),
        ("no plan is not ready", facts(PlanSource.WAITING), False),
        ("others answer for a model that is held back here", facts(models=HELD_BACK), False),
        ("who answers isn't taken out by it", facts(models=HELD_BACK, was_ready=True), True),
        ("draining is not ready", facts(models=SERVING, draining=True, was_ready=True), False),
        ("at first a stand-in is not enough", facts(models={"m": model(LOADING, PREPARED, answers=True)}), False),
        (
            "after the first ready any model that can answer is enough",
            facts(models={"a": model(PREPARED), "b": model(LOADING)}, was_ready=True),
            True,
        ),
        (
            "after the first ready a stand-in is enough",
            facts(models={"m": model(LOADING, PREPARED, answers=True)}, was_ready=True),
            True,
        ),
        ("after the first ready, nothing left to answer", facts(models={"m": model(LOADING)}, was_ready=True), False),
        ("a lost database doesn't unready", facts(models=SERVING, database="unavailable", was_ready=True), True),
        ("a lost operator doesn't unready", facts(models=SERVING, notes=("away",), was_ready=True), True),
        ("all retired is not ready", facts(models=EMPTY, was_ready=True), False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ready(sentence, given, expected):
    answer, reasons = ready(given)
    assert answer is expected
    assert bool(reasons) is not expected


@pytest.mark.parametrize(
    ("sentence", "given", "code", "status", "word"),
    [
        # Before the first ready.
        ("the operator says there is no plan", facts(PlanSource.NO_PLAN), 200, "ok", "none"),
        ("the plan gives no version traffic", facts(models=EMPTY), 200, "ok", "none"),
        ("the plan is empty", facts(), 200, "ok", "none"),
        ("a model is held back", facts(models={"b": HELD_BACK["b"]}), 503, "starting", "none"),
        ("a version with traffic isn't resident yet", facts(models=STARTING), 503, "starting", "loading"),
        ("neither a plan nor an operator in reach", facts(PlanSource.WAITING), 503, "starting", "none"),
        ("without an operator and without a model", facts(PlanSource.UNMANAGED), 503, "starting", "none"),
        ("the committed version fails", facts(models={"m": model(FAILED)}), 503, "starting", "unavailable"),
        ("the first ready", facts(models=SERVING), 200, "ok", "ok"),
        # After it.
        ("serving", facts(models=SERVING, was_ready=True), 200, "ok", "ok"),
        (
            "no model kills a replica",
            facts(models={"m": model(FAILED)}, was_ready=True),
            200,
            "degraded",
            "unavailable",
        ),
        (
            "one model of two",
            facts(models={**SERVING, "n": model(LOADING)}, was_ready=True),
            200,
            "degraded",
            "loading",
        ),
        (
            "a stand-in while it loads",
            facts(models={"m": model(LOADING, PREPARED, answers=True)}, was_ready=True),
            200,
            "ok",
            "ok",
        ),
        (
            "a stand-in since it fails",
            facts(models={"m": model(FAILED, PREPARED, answers=True, message="wrong answers")}, was_ready=True),
            200,
            "degraded",
            "ok",
        ),
        ("a candidate that fails", facts(models={"m": model(PREPARED, FAILED)}, was_ready=True), 200, "ok", "ok"),
        ("a lost database", facts(models=SERVING, database="unavailable", was_ready=True), 200, "degraded", "ok"),
        ("an operator out of reach", facts(models=SERVING, notes=("away",), was_ready=True), 200, "degraded", "ok"),
        ("draining", facts(models=SERVING, was_ready=True, draining=True), 503, "draining", "ok"),
        ("draining before the first ready", facts(models=STARTING, draining=True), 503, "draining", "loading"),
        ("a stuck worker", facts(models=SERVING, was_ready=True, stuck=("stuck",)), 503, "unavailable", "ok"),
        ("everything retired", facts(models=EMPTY, was_ready=True), 200, "ok", "none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_health(sentence, given, code, status, word):
    body = health(given, NOW)
    assert (http_status(body), body.status, body.model) == (code, status, word)
    assert bool(body.reasons) is (status != "ok")


def test_health_has_the_fields_that_every_platform_reads():
    body = health(facts(models=SERVING, epoch=7, instance="i" * 8, database="ok"), NOW).to_dict()
    assert body == {
        "status": "ok",
        "database": "ok",
        "model": "ok",
        "timestamp": "2026-01-02T03:04:05.678Z",
        "reasons": [],
        "epoch": 7,
        "instance": "iiiiiiii",
        "models": {"m": {"1": "Prepared"}},
        "confinement": {},
    }


def test_reasons_say_which_version_and_why():
    body = health(facts(models={"m": model(WAITING, message="there is no folder /models/m/1")}), NOW)
    assert body.reasons == ["version 1 of model m is Waiting: there is no folder /models/m/1"]


def test_the_first_ready_is_remembered():
    now = {"m": model(PREPARED)}
    source = ReplicaHealth(lambda was_ready: facts(models=now, was_ready=was_ready), lambda: NOW)
    assert source.ready()[0]
    now["n"] = model(LOADING)
    assert source.ready()[0]
    now["m"] = model(LOADING)
    assert not source.ready()[0]
    assert http_status(source.health()) == 200
