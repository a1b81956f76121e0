"""The order of a host's actions: tables over the plan and what is held."""

from __future__ import annotations

import pytest

from windlass_contract.plan import ModelPlan, PlannedVersion, SamplesRef, ServingPlan
from windlass_server.hosting.order import MAX_RESIDENT, Key, Phase, Prepare, Unload, View, next_actions


def digest(number: int) -> str:
    return f"sha256:{number:064d}"


def key(version: int, model: str = "m") -> Key:
    return Key(model, version, digest(version))


def model(weights: dict[int, int], samples: int | None = None, **roles: int) -> ModelPlan:
    reference = SamplesRef(digest=digest(samples)) if samples is not None else None
    return ModelPlan(
        versions=[
            PlannedVersion(
                version=version,
                digest=digest(version),
                weight=weight,
                samples=reference if version == roles.get("candidate", max(weights)) else None,
            )
            for version, weight in weights.items()
        ],
        **roles,
    )


def attempted(weights: dict[int, int], attempt: int) -> ModelPlan:
    """With version 2 as the candidate of an attempt."""
    base = model(weights, committed=1, candidate=2)
    versions = [
        each.model_copy(update={"attempt": attempt} if each.version == base.candidate else {}) for each in base.versions
    ]
    return base.model_copy(update={"versions": versions})


def plan(**models: ModelPlan) -> ServingPlan:
    return ServingPlan.build("s", 5, models)


def view(version: int, phase: Phase, model: str = "m", **fields) -> View:
    return View(key(version, model), phase, **fields)


def shown(actions) -> list[str]:
    return [f"{type(action).__name__} {action.key}" for action in actions]


IDLE, PREPARING, RESIDENT, FAILED, UNLOADING = Phase


@pytest.mark.parametrize(
    ("case", "models", "held", "expected"),
    [
        ("nothing to do", {"m": model({1: 1000}, committed=1)}, [view(1, RESIDENT, routed=True)], []),
        ("the first version", {"m": model({1: 1000}, committed=1)}, [], ["Prepare m/1"]),
        (
            "committed versions first, over all models",
            {"a": model({1: 1000, 2: 0}, committed=1, candidate=2), "b": model({1: 1000}, committed=1)},
            [view(1, RESIDENT, "a", routed=True)],
            ["Prepare b/1"],
        ),
        (
            "candidates before previous versions",
            {"m": model({1: 0, 2: 1000, 3: 0}, committed=2, previous=1, candidate=3)},
            [view(2, RESIDENT, routed=True)],
            ["Prepare m/3"],
        ),
        (
            "one at a time over the whole replica",
            {"a": model({1: 1000}, committed=1), "b": model({1: 1000}, committed=1)},
            [view(1, PREPARING, "a"), view(1, IDLE, "b")],
            [],
        ),
        (
            "the previous version goes before a newer candidate comes",
            {"m": model({2: 1000, 3: 0}, committed=2, candidate=3)},
            [view(1, RESIDENT), view(2, RESIDENT, routed=True)],
            ["Unload m/1"],
        ),
        (
            "the candidate loads once it is gone",
            {"m": model({2: 1000, 3: 0}, committed=2, candidate=3)},
            [view(2, RESIDENT, routed=True), view(3, IDLE)],
            ["Prepare m/3"],
        ),
        (
            "what stands in stays until its successor is in",
            {"m": model({2: 1000}, committed=2)},
            [view(1, RESIDENT, routed=True), view(2, IDLE)],
            ["Prepare m/2"],
        ),
        (
            "and goes then",
            {"m": model({2: 1000}, committed=2)},
            [view(1, RESIDENT), view(2, RESIDENT, routed=True)],
            ["Unload m/1"],
        ),
        (
            "the last one stays although its worker is away for a moment",
            {"m": model({2: 1000}, committed=2)},
            [view(1, RESIDENT, routed=False), view(2, PREPARING)],
            [],
        ),
        (
            "what is retired goes although it serves",
            {"m": model({1: 0}, committed=1)},
            [view(2, RESIDENT, routed=True), view(1, RESIDENT)],
            ["Unload m/2"],
        ),
        ("a model that the plan dropped goes", {}, [view(1, RESIDENT, routed=True)], ["Unload m/1"]),
        (
            "a superseded candidate is interrupted",
            {"m": model({1: 1000, 3: 0}, committed=1, candidate=3)},
            [view(1, RESIDENT, routed=True), view(2, PREPARING), view(3, IDLE)],
            ["Unload m/2"],
        ),
        (
            "a candidate makes room for the committed version",
            {"m": model({2: 1000, 3: 0}, committed=2, candidate=3)},
            [view(1, RESIDENT, routed=True), view(3, RESIDENT), view(2, IDLE)],
            ["Unload m/3"],
        ),
        ("a retry that isn't due waits", {"m": model({1: 1000}, committed=1)}, [view(1, IDLE, due=False)], []),
        (
            "and lets others have their turn",
            {"a": model({1: 1000}, committed=1), "b": model({1: 1000}, committed=1)},
            [view(1, IDLE, "a", due=False), view(1, IDLE, "b")],
            ["Prepare b/1"],
        ),
        ("a verdict is final", {"m": model({1: 1000}, committed=1)}, [view(1, FAILED)], []),
        (
            "until it is to pass other samples",
            {"m": model({1: 1000, 2: 0}, samples=8, committed=1, candidate=2)},
            [view(1, RESIDENT, routed=True), view(2, FAILED, samples=(digest(7), 1000))],
            ["Unload m/2"],
        ),
        (
            "a candidate that passed other samples is tried anew",
            {"m": model({1: 1000, 2: 0}, samples=8, committed=1, candidate=2)},
            [view(1, RESIDENT, routed=True), view(2, RESIDENT, samples=(digest(7), 1000))],
            ["Unload m/2"],
        ),
        (
            "and one that passed the same with a lower score",
            {"m": model({1: 1000, 2: 0}, samples=8, committed=1, candidate=2)},
            [view(1, RESIDENT, routed=True), view(2, RESIDENT, samples=(digest(8), 800))],
            ["Unload m/2"],
        ),
        (
            "a commit without samples tries a failed one again",
            {"m": model({2: 1000}, committed=2)},
            [view(2, FAILED, samples=(digest(7), 1000))],
            ["Unload m/2"],
        ),
        (
            "a commit doesn't disturb a version that passed its samples",
            {"m": model({2: 1000}, committed=2)},
            [view(2, RESIDENT, routed=True, samples=(digest(7), 1000))],
            [],
        ),
        (
            "nor one that is about to",
            {"m": model({2: 1000}, committed=2)},
            [view(2, PREPARING, samples=(digest(7), 1000))],
            [],
        ),
        (
            "what failed in another attempt is loaded anew",
            {"m": attempted({1: 1000, 2: 0}, 9)},
            [view(1, RESIDENT, routed=True), view(2, FAILED, attempt=5)],
            ["Unload m/2"],
        ),
        (
            "what failed in this one stays so",
            {"m": attempted({1: 1000, 2: 0}, 9)},
            [view(1, RESIDENT, routed=True), view(2, FAILED, attempt=9)],
            [],
        ),
        (
            "what is prepared, or about to be, isn't disturbed by another attempt",
            {"m": attempted({1: 1000, 2: 0}, 9), "n": attempted({1: 1000, 2: 0}, 9)},
            [
                view(1, RESIDENT, routed=True),
                view(2, RESIDENT, attempt=5),
                view(1, RESIDENT, "n", routed=True),
                view(2, PREPARING, "n", attempt=5),
            ],
            [],
        ),
        (
            "other bytes under the same number are another version",
            {"m": ModelPlan(committed=1, versions=[PlannedVersion(version=1, digest=digest(9), weight=1000)])},
            [view(1, RESIDENT, routed=True)],
            ["Prepare m/1"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_order(case, models, held, expected):
    assert shown(next_actions(plan(**models), held)) == expected


def test_from_any_start_it_ends_with_what_is_planned_and_never_holds_too_much():
    """Plays the actions out, one change at a time, for every start with three versions."""
    target = plan(m=model({2: 1000, 3: 0}, committed=2, candidate=3))
    for served in (1, 2, 3, None):
        for other in (1, 2, 3, None):
            held = {number: RESIDENT for number in (served, other) if number is not None}
            for _ in range(20):
                routed = 2 if held.get(2) is RESIDENT else served if held.get(served) is RESIDENT else None
                views = [view(number, phase, routed=number == routed) for number, phase in held.items()]
                actions = next_actions(target, views)
                for action in actions:
                    number = action.key.version
                    if isinstance(action, Prepare):
                        held[number] = PREPARING
                    elif isinstance(action, Unload):
                        assert number != routed, "what serves is never unloaded"
                        held[number] = UNLOADING
                in_memory = [number for number, phase in held.items() if phase in {PREPARING, RESIDENT, UNLOADING}]
                assert len(in_memory) <= MAX_RESIDENT
                held = {
                    number: RESIDENT if phase is PREPARING else phase
                    for number, phase in held.items()
                    if phase is not UNLOADING
                }
                if not actions:
                    break
            assert held == {2: RESIDENT, 3: RESIDENT}
