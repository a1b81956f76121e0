"""When a breaker opens: the window alone."""

from __future__ import annotations

import pytest

from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.plan import Blocked, Breaker, ModelPlan, PlannedVersion, ServingPlan
from windlass_server.hosting.breaker import CRASH_WEIGHT, WINDOW_REQUESTS, WINDOW_SECONDS, Breakers, Window
from windlass_server.hosting.order import Key

DIGEST = "sha256:" + "1" * 64
KEY = Key("m", 1, DIGEST)


def plan(epoch: int = 1, **fields) -> ServingPlan:
    versions = [PlannedVersion(version=1, digest=DIGEST, weight=1000)]
    return ServingPlan.build("s", epoch, {"m": ModelPlan(committed=1, versions=versions, **fields)})


@pytest.mark.parametrize(
    ("case", "good", "failed", "breaker", "trips"),
    [
        ("too few to say", 0, 19, Breaker(), False),
        ("enough", 0, 20, Breaker(), True),
        ("half isn't more than half", 10, 10, Breaker(), False),
        ("more than half", 10, 11, Breaker(), True),
        ("as strict as the plan says", 98, 2, Breaker(max_error_rate=10), True),
        ("one of a hundred isn't above one percent", 99, 1, Breaker(max_error_rate=10), False),
        ("never", 0, 100, Breaker(max_error_rate=1000), False),
        ("a single one, if the plan wants it so", 0, 1, Breaker(min_requests=1), True),
        ("old good ones don't hide new bad ones", 10_000, 51, Breaker(), True),
        ("more than the window holds is never asked for", 0, 100, Breaker(min_requests=5000), True),
    ],
)
def test_a_window_trips_above_the_rate_from_the_least_number_of_requests_on(case, good, failed, breaker, trips):
    window = Window()
    for _ in range(good):
        window.note(failed=False, now=0.0)
    for _ in range(failed):
        window.note(failed=True, now=1.0)
    assert window.trips(breaker) is trips, case


def test_what_is_long_ago_is_forgotten():
    window = Window()
    for _ in range(WINDOW_REQUESTS):
        window.note(failed=True, now=0.0)
    window.note(failed=True, now=WINDOW_SECONDS + 1)
    assert str(window).startswith("1 of its last 1 ")
    assert not window.trips(Breaker())


def test_a_crash_counts_once_however_many_requests_it_took_along():
    breakers = Breakers()
    breakers.follow(plan(breaker=Breaker(min_requests=2 * CRASH_WEIGHT)))
    assert [breakers.crashed(KEY, 7, now=0.0) for _ in range(10)] == [False] * 10
    assert breakers.crashed(KEY, 8, now=0.0)
    assert breakers.open[KEY].message == "10 of its last 10 requests failed by its own fault"
    assert breakers.open[KEY].reason is Reason.ERROR_RATE_EXCEEDED


def test_it_opens_once_and_closes_only_when_the_plan_says_something_else_about_who_serves():
    breakers = Breakers()
    breakers.follow(plan())
    assert [breakers.note(KEY, failed=True, now=0.0) for _ in range(25)].count(True) == 1
    breakers.note(KEY, failed=False, now=0.0)
    assert KEY in breakers.open
    blocked = [Blocked(version=9, digest="sha256:" + "9" * 64, reason="LoadFailed")]
    breakers.follow(plan(2, quarantine=blocked))
    assert KEY in breakers.open
    breakers.follow(plan(3, labels={"stable": 1}, previous=1))
    assert not breakers.open
    assert not breakers.note(KEY, failed=True, now=1.0), "it begins anew"


def test_what_must_not_happen_twice_opens_it_at_once_and_what_it_opened_for_first_is_what_it_says():
    breakers = Breakers()
    memory = Failure(gate=Gate.LOAD, reason=Reason.WONT_FIT, message="it took all memory")
    assert not breakers.trip(KEY, memory), "no plan names it"
    breakers.follow(plan())
    assert breakers.trip(KEY, memory)
    assert not breakers.trip(KEY, memory)
    assert not breakers.note(KEY, failed=True, now=0.0)
    assert breakers.open == {KEY: memory}
