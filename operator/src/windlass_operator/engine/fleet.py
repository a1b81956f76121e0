"""Who the replicas are, and what each of them says: the reports, read once per pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from windlass_contract.control import GATHER_SECONDS, GATHER_SECONDS_ORCHESTRATED, SUBSCRIBED_SECONDS
from windlass_contract.plan import MAX_REPORTED_EPOCH, PlannedVersion, ServingPlan
from windlass_contract.report import ServingReport, VersionReport

from .interface import Observation, SeenReport


@dataclass(frozen=True)
class Fleet:
    """The replicas of one server. A replica speaks through its present instance: the one heard of last."""

    server: str
    reports: tuple[ServingReport, ...]
    """Of all instances, gone ones included, in a fixed order."""
    subscribed: tuple[ServingReport, ...]
    """Of those who take part and are heard."""
    unreachable: tuple[str, ...]
    """Replicas that get traffic and aren't heard."""

    @classmethod
    def of(cls, observation: Observation) -> Fleet:
        """Reads the reports of an observation; those of other servers are none of ours, and one with an epoch from
        which nobody could count on says nothing."""
        highest = max(MAX_REPORTED_EPOCH, 0 if observation.plan is None else observation.plan.epoch)
        seen = [
            each
            for each in observation.reports
            if each.report.server == observation.server
            and (each.report.plan is None or each.report.plan.epoch <= highest)
        ]
        seen.sort(key=lambda each: (each.report.replica, each.report.instance, each.report.sequence))
        present = _present(seen)
        ready = {each.name for each in observation.replicas or () if each.ready}
        heard = {name: each.report for name, each in present.items() if each.age <= SUBSCRIBED_SECONDS}
        return cls(
            server=observation.server,
            reports=tuple(each.report for each in seen),
            subscribed=tuple(
                # A replica that drains is leaving: it is waited for only as long as it still gets traffic.
                report
                for name, report in heard.items()
                if name in ready or not report.draining
            ),
            unreachable=tuple(sorted(ready - set(heard))),
        )

    @property
    def size(self) -> int:
        """How many replicas take part."""
        return len(self.subscribed) + len(self.unreachable)

    def plans(self) -> Iterator[ServingPlan]:
        """The plans that instances follow."""
        return (report.plan for report in self.reports if report.plan is not None and report.plan.server == self.server)


def _present(seen: list[SeenReport]) -> dict[str, SeenReport]:
    present: dict[str, SeenReport] = {}
    for each in seen:
        known = present.get(each.report.replica)
        if known is None or each.age < known.age:
            present[each.report.replica] = each
    return present


def still_gathering(observation: Observation) -> float:
    """Seconds for which an operator that has just started has to wait before it changes anything; 0: none.

    It waits until all ready replicas have reported, since one of them may follow a newer plan than the object holds.
    """
    if observation.replicas is None:
        return max(0.0, GATHER_SECONDS - observation.uptime)
    heard = {each.report.replica for each in observation.reports if each.report.server == observation.server}
    if all(each.name in heard for each in observation.replicas if each.ready):
        return 0.0
    return max(0.0, GATHER_SECONDS_ORCHESTRATED - observation.uptime)


def spoken_for(report: ServingReport, model: str, planned: PlannedVersion, since: int) -> VersionReport | None:
    """What a replica says of a version as planned (same digest, same samples), under a plan of epoch `since` or later.

    None: it says nothing of it, or speaks of something else that has the same number, or of an earlier attempt.
    """
    plan = report.plan
    if plan is None or plan.server != report.server or plan.epoch < since or model not in plan.models:
        return None
    follows = plan.models[model].planned(planned.version)
    if follows is None or follows.digest != planned.digest or follows.samples != planned.samples:
        return None
    said = report.version(model, planned.version)
    return None if said is None or said.digest not in {None, planned.digest} else said
