"""Which of several plans a replica follows."""

from __future__ import annotations

import pytest

from windlass_contract.plan import ModelPlan, ServingPlan
from windlass_server.following.choice import Offer, choose


def plan(epoch: int, *, server: str = "s", model: str = "m") -> ServingPlan:
    return ServingPlan.build(server, epoch, {model: ModelPlan()})


@pytest.mark.parametrize(
    ("case", "held", "offered", "followed", "conflict"),
    [
        ("the first one there is", None, [plan(3)], 3, False),
        ("the newest of several", None, [plan(3), plan(5), plan(4)], 5, False),
        ("a newer one than the one held", plan(3), [plan(4)], 4, False),
        ("not an older one", plan(3), [plan(2)], None, False),
        ("not the same again", plan(3), [plan(3)], None, False),
        ("not the same epoch with other content", plan(3), [plan(3, model="other")], None, True),
        ("the first of two that conflict", None, [plan(3), plan(3, model="other")], 3, True),
        ("a higher epoch heals a conflict", plan(3), [plan(3, model="other"), plan(4)], 4, False),
        ("not another server's", None, [plan(9, server="x")], None, False),
        ("nothing when nothing is offered", None, [], None, False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_follows(case, held, offered, followed, conflict):
    choice = choose("s", held, [Offer(each, f"source {index}") for index, each in enumerate(offered)])
    assert (choice.plan.epoch if choice.plan else None) == followed
    assert choice.conflict is conflict


def test_refusals_name_source_what_was_found_and_the_remedy():
    choice = choose(
        "s", plan(3), [Offer(plan(9, server="x"), "http://op"), Offer(plan(3, model="other"), "/plan.json")]
    )
    assert choice.refusals == {
        "http://op": "the plan of http://op is for server 'x', this replica belongs to 's': correct --server, or the "
        "source",
        "/plan.json": choice.refusals["/plan.json"],
    }
    assert "epoch 3 too" in choice.refusals["/plan.json"]
    assert "heals it with a higher epoch" in choice.refusals["/plan.json"]
