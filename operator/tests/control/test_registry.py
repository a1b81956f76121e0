"""Who is subscribed, by the operator's clock."""

from __future__ import annotations

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
