"""What stalls becomes an event, once for each reason."""

from collections.abc import Mapping, Sequence

import pytest

from windlass_contract.model_version import Condition, ConditionStatus, ConditionType, ModelVersionStatus
from windlass_operator.driving.people import newly_stalled
from windlass_operator.engine.interface import Event


def stall(reason: str, message: str = "why") -> ModelVersionStatus:
    return ModelVersionStatus(
        conditions=[Condition(type=ConditionType.STALLED, status=ConditionStatus.TRUE, reason=reason, message=message)]
    )


FINE = ModelVersionStatus(
    conditions=[Condition(type=ConditionType.STALLED, status=ConditionStatus.FALSE, reason="AsPlanned")]
)
WARNED = [Event("m-2", "Warning", "Rejected", "wrong answers")]


@pytest.mark.parametrize(
    ("before", "now", "told", "reasons"),
    [
        (None, {"m-2": stall("NoReplicas")}, [], []),
        ({}, {"m-2": stall("FileMissing")}, [], ["FileMissing"]),
        ({"m-2": FINE}, {"m-2": stall("FileMissing")}, [], ["FileMissing"]),
        ({"m-2": stall("FileMissing", "1 of 3")}, {"m-2": stall("FileMissing", "2 of 3")}, [], []),
        ({"m-2": stall("NoReplicas")}, {"m-2": stall("FileMissing")}, [], ["FileMissing"]),
        ({"m-2": stall("FileMissing")}, {"m-2": FINE}, [], []),
        ({"m-2": FINE}, {"m-2": stall("Quarantined")}, WARNED, []),
        ({"m-2": FINE, "m-3": FINE}, {"m-2": stall("Quarantined"), "m-3": stall("Held")}, WARNED, ["Held"]),
    ],
    ids=[
        "at first the status alone says it",
        "a new ModelVersion",
        "it went well before",
        "the same reason in other words",
        "another reason",
        "it goes on",
        "it was told anyway",
        "one was told, the other not",
    ],
)
def test_what_stalls_is_told_once_for_each_reason(
    before: Mapping[str, ModelVersionStatus] | None,
    now: Mapping[str, ModelVersionStatus],
    told: Sequence[Event],
    reasons: list[str],
) -> None:
    events = newly_stalled(before, now, told)
    assert [event.reason for event in events] == reasons
    assert all(event.type == "Warning" and event.message == "why" for event in events)
