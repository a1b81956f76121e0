"""Who is subscribed, by the operator's clock."""

from __future__ import annotations

from typing import Any

import pytest

from windlass_contract.report import ServingReport
from windlass_operator.control.registry import FORGET_SECONDS, Registry


def report(instance: str, sequence: int) -> ServingReport:
    return ServingReport(server="s", replica="one", instance=instance * 8, sequence=sequence)


def test_each_instance_is_known_from_its_first_report_until_it_was_silent_for_long():
    now = [100.0]
    registry = Registry(lambda: now[0])
    registry.take(report("a", 1))
    now[0] = 103.0
    registry.take(report("b", 1))
    registry.take(report("a", 2))
    now[0] = 104.0
    seen = {each.report.instance[0]: (each.age, each.known_for) for each in registry.reports()}
    assert seen == {"a": (1.0, 4.0), "b": (1.0, 1.0)}
    now[0] += FORGET_SECONDS
    assert registry.reports() == ()
    registry.take(report("a", 3))
    assert [(each.age, each.known_for) for each in registry.reports()] == [(0.0, 0.0)]


def telling(**fields: Any) -> ServingReport:
    version = {"version": 1, "state": "Fetching", "progress": 0.5, **fields.pop("version", {})}
    said = {
        "server": "s",
        "replica": "one",
        "instance": "a" * 8,
        "sequence": 1,
        "models": {"m": {"versions": [version]}},
    }
    return ServingReport.model_validate({**said, **fields})


@pytest.mark.parametrize(
    ("fields", "after", "news"),
    [
        ({}, 3.0, False),
        ({}, 5.1, True),
        ({"version": {"progress": 0.59, "memoryBytes": 7, "counters": {"requests": 9}}}, 1.0, False),
        ({"version": {"progress": 0.6}}, 1.0, True),
        ({"version": {"state": "Verifying"}}, 1.0, True),
        ({"fetches": ["https"]}, 1.0, True),
        ({"ready": True}, 1.0, True),
        ({"draining": True}, 1.0, True),
    ],
)
def test_only_what_may_change_a_decision_or_a_status_is_news(fields: dict[str, Any], after: float, news: bool) -> None:
    now = [100.0]
    registry = Registry(lambda: now[0])
    assert registry.take(telling())
    now[0] += after
    assert registry.take(telling(sequence=2, **fields)) is news
