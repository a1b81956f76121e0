"""What people are told. Nothing reads it back, and none of it may delay a decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from windlass_contract.model_version import Condition, ConditionStatus, ConditionType, ModelVersionStatus
from windlass_operator.engine.interface import Event, SeenReport

CONFLICT = "Conflict"


class People(Protocol):
    """Shows what a pass decided. Problems are logged, never raised: the newest is told again with the next news."""

    async def show_statuses(self, key: str, statuses: Mapping[str, ModelVersionStatus]) -> None:
        """The statuses of a server's ModelVersions, by name."""
        ...

    async def show_reports(self, key: str, reports: Sequence[SeenReport]) -> None:
        """What the replicas of a server say."""
        ...

    async def tell(self, key: str, events: Sequence[Event], at: datetime) -> None:
        """What has happened."""
        ...


def stalled(status: ModelVersionStatus | None, reason: str, message: str) -> ModelVersionStatus:
    """A status that says, before all else, that the ModelVersion isn't taken as it is; the rest stays true."""
    if status is None:
        unknown = [
            Condition(type=kind, status=ConditionStatus.UNKNOWN, reason=reason, message="")
            for kind in ConditionType
            if kind is not ConditionType.STALLED
        ]
        status = ModelVersionStatus(phase="Conflict" if reason == CONFLICT else "Stalled", conditions=unknown)
    condition = Condition(
        type=ConditionType.STALLED,
        status=ConditionStatus.TRUE,
        reason=reason,
        message=message,
        observed_generation=status.observed_generation,
    )
    others = [each for each in status.conditions if each.type is not ConditionType.STALLED]
    return status.model_copy(update={"message": message, "conditions": [*others, condition]})


def with_transition_times(status: ModelVersionStatus, before: Iterable[Condition], now: datetime) -> ModelVersionStatus:
    """Each condition with the time of its last change of `status`."""
    known = {each.type: each for each in before}
    text = now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    dated = []
    for condition in status.conditions:
        old = known.get(condition.type)
        same = old is not None and old.status is condition.status and old.last_transition_time
        time = old.last_transition_time if old is not None and same else text
        dated.append(condition.model_copy(update={"last_transition_time": time}))
    return status.model_copy(update={"conditions": dated})


def newly_stalled(
    before: Mapping[str, ModelVersionStatus] | None, now: Mapping[str, ModelVersionStatus], told: Iterable[Event]
) -> list[Event]:
    """What to say of ModelVersions that have stalled, or stall for another reason than before. Nothing where a warning
    was `told` of the same ModelVersion anyway, nor at first (`before` is None): then the status alone says it.
    """
    if before is None:
        return []
    warned = {event.model_version for event in told if event.type == "Warning"}
    events = []
    for name, status in now.items():
        stall = _stall(status)
        old = _stall(before[name]) if name in before else None
        if stall is not None and name not in warned and (old is None or old.reason != stall.reason):
            events.append(Event(name, "Warning", stall.reason, stall.message))
    return events


def _stall(status: ModelVersionStatus) -> Condition | None:
    return next(
        (
            each
            for each in status.conditions
            if each.type is ConditionType.STALLED and each.status is ConditionStatus.TRUE
        ),
        None,
    )
