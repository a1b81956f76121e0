"""Which version answers: tables over what the plan says, what is held and what served before."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from windlass_contract.plan import ModelPlan, PlannedVersion
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.router import WHOLE, Held, ModelRoutes, RoutedBy, RoutingTable, route_model


def digest(version: int) -> str:
    return f"sha256:{version:064d}"


def plan(weights: dict[int, int], **fields) -> ModelPlan:
    hidden = fields.pop("hidden", ())
    versions = [
        PlannedVersion(version=version, digest=digest(version), weight=weight, addressable=version not in hidden)
        for version, weight in weights.items()
    ]
    return ModelPlan(versions=versions, **fields)


def held(*versions: int, away: tuple[int, ...] = (), loading: tuple[int, ...] = ()) -> list[Held[str]]:
    """Prepared ones, those whose worker is away, and those that were never prepared."""
    return [
        Held(version, digest(version), version in versions, version not in loading, f"v{version}")
        for version in (*versions, *away, *loading)
    ]


BEFORE_V1 = route_model(plan({1: 1000}, committed=1), held(1))
COMMIT_2 = plan({2: 1000, 1: 0}, committed=2, previous=1)
SERVED_2 = route_model(COMMIT_2, held(2))
CANARY_2 = route_model(plan({1: 750, 2: 250}, committed=1, candidate=2), held(1, 2))
CANARY_2_ALONE = route_model(plan({1: 750, 2: 250}, committed=1, candidate=2), held(2, away=(1,)))


@pytest.mark.parametrize(
    ("case", "model", "holds", "before", "serving", "lagging"),
    [
        ("the committed version", plan({1: 1000}, committed=1), held(1), None, {1: 1000}, False),
        ("nothing while the first one loads", plan({1: 1000}, committed=1), held(loading=(1,)), None, {}, True),
        ("nothing when the plan wants nothing", plan({1: 0}, committed=1), held(1), BEFORE_V1, {}, False),
        ("the new one once it is prepared", COMMIT_2, held(1, 2), BEFORE_V1, {2: 1000}, False),
        ("what served, until the new one is prepared", COMMIT_2, held(1, loading=(2,)), BEFORE_V1, {1: 1000}, True),
        (
            "what served, although no longer planned",
            plan({2: 1000}, committed=2),
            held(1, loading=(2,)),
            BEFORE_V1,
            {1: 1000},
            True,
        ),
        ("the previous one when the committed one dies", COMMIT_2, held(1, away=(2,)), None, {1: 1000}, True),
        ("nobody when the only one dies", plan({1: 1000}, committed=1), held(away=(1,)), BEFORE_V1, {}, True),
        (
            "the weights of a canary",
            plan({1: 750, 2: 250}, committed=1, candidate=2),
            held(1, 2),
            BEFORE_V1,
            {1: 750, 2: 250},
            False,
        ),
        (
            "the committed one takes a dead candidate's share",
            plan({1: 750, 2: 250}, committed=1, candidate=2),
            held(1, away=(2,)),
            None,
            {1: 1000},
            True,
        ),
        (
            "a candidate takes all only if nobody else is left",
            plan({1: 750, 2: 250}, committed=1, candidate=2),
            held(2, away=(1,)),
            None,
            {2: 1000},
            True,
        ),
        (
            "a candidate without its lease gets nothing",
            plan({1: 750, 2: 250}, committed=1, candidate=2, lease_seconds=5),
            held(1, 2),
            None,
            {1: 1000},
            False,
        ),
        (
            "never a prepared candidate without weight",
            plan({1: 1000, 2: 0}, committed=1, candidate=2),
            held(2, away=(1,)),
            None,
            {},
            True,
        ),
        (
            "what served, although it is a candidate by now",
            plan({1: 1000, 2: 0}, committed=1, candidate=2),
            held(2, loading=(1,)),
            SERVED_2,
            {2: 1000},
            True,
        ),
        (
            "not what served only as a candidate, once its weight is gone",
            plan({1: 1000, 2: 0}, committed=1, candidate=2),
            held(2, away=(1,)),
            CANARY_2,
            {},
            True,
        ),
        (
            "nor when it had stood in for all",
            plan({1: 750, 2: 250}, committed=1, candidate=2, lease_seconds=5),
            held(2, away=(1,)),
            CANARY_2_ALONE,
            {},
            True,
        ),
        (
            "nor when the plan doesn't name it any more",
            plan({1: 1000}, committed=1),
            held(2, away=(1,)),
            CANARY_2,
            {},
            True,
        ),
        (
            "not the same version with other bytes",
            plan({1: 1000}, committed=1),
            [Held(1, digest(9), True, True, "other")],
            None,
            {},
            True,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_requests_go_to(case, model, holds, before, serving, lagging):
    routes = route_model(model, holds, before)
    assert routes.serving() == serving
    assert routes.lagging is lagging
    assert sum(serving.values()) in {0, WHOLE}


def test_a_held_lease_lets_the_candidate_have_its_weight():
    model = plan({1: 900, 2: 100}, committed=1, candidate=2, lease_seconds=5)
    assert route_model(model, held(1, 2), lease_held=True).serving() == {1: 900, 2: 100}


def test_every_point_has_a_version_in_proportion_to_its_weight():
    routes = route_model(plan({1: 995, 2: 5}, committed=1, candidate=2), held(1, 2))
    picked = [routes.pick(point).version for point in range(WHOLE)]
    assert (picked.count(1), picked.count(2)) == (995, 5)


def test_only_prepared_versions_are_ever_routed_whatever_is_held_and_planned():
    for weights in ({1: 1000}, {1: 600, 2: 400}, {2: 1000, 1: 0}, {1: 0, 2: 0}):
        for states in itertools.product(("absent", "loading", "prepared", "away"), repeat=3):
            have = [
                Held(version, digest(version), state == "prepared", state in {"prepared", "away"}, f"v{version}")
                for version, state in enumerate(states, start=1)
                if state != "absent"
            ]
            model = plan(weights, committed=max(weights), previous=min(weights))
            for before in (None, BEFORE_V1):
                routes = route_model(model, have, before)
                reachable = [each for each, _ in routes.weights] + list(routes.reachable.values())
                assert all(each.prepared for each in reachable)
                assert sum(routes.serving().values()) == (WHOLE if routes.weights else 0)
                assert not routes.weights or routes.wanted


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (3, 3),  # it has a weight
        (2, 2),  # it is the previous one
        (4, Code.NOT_FOUND),  # a candidate that the plan hides
        (5, 5),  # listed by the plan
        (6, Code.NOT_FOUND),  # nobody knows it
        (7, Code.UNAVAILABLE),  # its worker is being started anew
        (8, Code.NOT_FOUND),  # never was prepared
    ],
)
def test_by_number_one_reaches_what_has_a_weight_the_previous_one_and_what_the_plan_lists(version, expected):
    model = plan(
        {3: 1000, 2: 0, 4: 0, 5: 0, 7: 0, 8: 0}, committed=3, previous=2, candidate=4, hidden=(2, 4), labels={"x": 3}
    )
    table = RoutingTable(7, {"m": route_model(model, held(3, 2, 4, 5, 6, away=(7,), loading=(8,)))})
    if isinstance(expected, int):
        assert table.choose("m", version=version).version == expected
    else:
        with pytest.raises(ServingError) as caught:
            table.choose("m", version=version)
        assert caught.value.code is expected
        if expected is Code.NOT_FOUND:
            assert caught.value.message == f"Servable not found for request: Specific(m, {version})"


def test_what_a_plan_says_nothing_of_cannot_be_asked_for_by_number():
    versions = [
        PlannedVersion(version=1, digest=digest(1), weight=1000),
        PlannedVersion(version=2, digest=digest(2)),
    ]
    routes = route_model(ModelPlan(committed=1, candidate=2, versions=versions), held(1, 2))
    assert set(routes.reachable) == {1}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ({"model": "nobody"}, Code.NOT_FOUND, "Servable not found for request: Latest(nobody)"),
        ({"model": "nobody", "version": 3}, Code.NOT_FOUND, "Servable not found for request: Specific(nobody, 3)"),
        ({"model": "m", "label": "x"}, Code.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
        ({"model": "retired"}, Code.NOT_FOUND, "Servable not found for request: Latest(retired)"),
        ({"model": "loading"}, Code.UNAVAILABLE, "No version of model loading can answer now"),
    ],
)
def test_what_cannot_be_answered_is_said_in_tensorflow_servings_words(arguments, code, message):
    table = RoutingTable(
        1,
        {
            "m": route_model(plan({1: 1000}, committed=1), held(1)),
            "retired": route_model(plan({1: 0}, committed=1), held(1)),
            "loading": route_model(plan({1: 1000}, committed=1), held(loading=(1,))),
        },
    )
    with pytest.raises(ServingError) as caught:
        table.choose(**arguments)
    assert caught.value.code is code
    assert caught.value.message.startswith(message)


def test_a_label_moves_when_the_replica_changes_over_not_before():
    before = route_model(plan({1: 1000}, committed=1, labels={"stable": 1}), held(1))
    commit = plan({2: 1000, 1: 0}, committed=2, previous=1, labels={"stable": 2})
    lagging = route_model(commit, held(1, loading=(2,)), before)
    assert RoutingTable(2, {"m": lagging}).choose("m", label="stable").version == 1
    assert RoutingTable(2, {"m": route_model(commit, held(1, 2), lagging)}).choose("m", label="stable").version == 2


def test_what_stands_in_can_be_named_as_long_as_it_serves():
    routes = route_model(plan({2: 1000}, committed=2), held(1, loading=(2,)), BEFORE_V1)
    assert set(routes.reachable) == {1}
    assert set(route_model(plan({2: 1000}, committed=2), held(1, 2), routes).reachable) == {2}


def test_a_table_without_a_plan_knows_no_model():
    with pytest.raises(ServingError, match="Latest"):
        RoutingTable().choose("m")
    assert ModelRoutes().serving() == {}


@pytest.mark.parametrize(
    ("case", "model", "holds", "broken", "serving"),
    [
        ("the previous one has it at once", COMMIT_2, held(1, 2), (2,), {1: 1000}),
        ("the candidate's goes to the committed", plan({1: 750, 2: 250}, committed=1), held(1, 2), (2,), {1: 1000}),
        ("nobody else is there", COMMIT_2, held(2), (2,), {2: 1000}),
        ("all are broken", COMMIT_2, held(1, 2), (1, 2), {2: 1000}),
        ("another one is broken", COMMIT_2, held(1, 2), (1,), {2: 1000}),
    ],
)
def test_an_open_breaker_moves_the_traffic_and_nothing_else(case, model, holds, broken, serving):
    routes = route_model(model, holds, broken={digest(version) for version in broken})
    assert routes.serving() == serving, case
    assert routes.labels == route_model(model, holds).labels
    assert routes.reachable.keys() >= route_model(model, holds).reachable.keys()


def test_what_stood_in_goes_on_standing_in_until_its_successor_is_there():
    wanted = plan({1: 1000, 2: 0}, committed=1, candidate=2)
    routes = route_model(wanted, held(2, loading=(1,)), route_model(wanted, held(2, loading=(1,)), SERVED_2))
    assert routes.serving() == {2: 1000}
    assert route_model(wanted, held(1, 2), routes).serving() == {1: 1000}


def test_routes_made_again_of_the_same_are_the_same_so_that_a_host_may_keep_them():
    models = [COMMIT_2, plan({1: 750, 2: 250}, committed=1, candidate=2, labels={"canary": 2}), plan({1: 1000, 3: 0})]
    states = ("absent", "loading", "prepared", "away")
    known = (None, BEFORE_V1, SERVED_2, CANARY_2, CANARY_2_ALONE)
    broken = ((), (digest(2),))
    for model, each, before, opened in itertools.product(models, itertools.product(states, repeat=3), known, broken):
        have = [
            Held(version, digest(version), state == "prepared", state in {"prepared", "away"}, f"v{version}")
            for version, state in enumerate(each, start=1)
            if state != "absent"
        ]
        routes = route_model(model, have, before, broken=opened)
        assert route_model(model, have, routes, broken=opened) == routes


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"plan": plan({1: 750, 2: 250})}, False),
        ({"held": held(1, away=(2,))}, False),
        ({"lease_held": True}, False),
        ({"broken": frozenset({digest(2)})}, False),
    ],
)
def test_routes_are_made_anew_when_anything_changed_that_they_are_made_of(change, same):
    by = RoutedBy(plan=COMMIT_2, held=held(1, 2), lease_held=False, broken=frozenset())
    assert by.same_as(replace(by, **{"held": held(1, 2), **change})) is same
    assert not by.same_as(None)
