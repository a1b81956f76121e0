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
    """The replicas of one server. A replica speaks through its present instance: the one heard of last. Where two that
    live were given one name, each speaks for itself."""

    server: str
    reports: tuple[ServingReport, ...]
    """Of all instances, gone ones included, in a fixed order."""
    subscribed: tuple[ServingReport, ...]
    """Of those who take part and are heard."""
    unreachable: tuple[str, ...]
    """Replicas that get traffic and aren't heard."""
    namesakes: tuple[str, ...] = ()
    """Names under which more than one instance lives."""

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
        heard = {
            name: [each.report for each in instances if each.age <= SUBSCRIBED_SECONDS]
            for name, instances in present.items()
        }
        return cls(
            server=observation.server,
            reports=tuple(each.report for each in seen),
            subscribed=tuple(
                # A replica that drains is leaving: it is waited for only as long as it still gets traffic.
                report
                for name, reports in heard.items()
                for report in reports
                if name in ready or not report.draining
            ),
            unreachable=tuple(sorted(ready - {name for name, reports in heard.items() if reports})),
            namesakes=tuple(sorted(name for name, reports in heard.items() if len(reports) > 1)),
        )

    @property
    def size(self) -> int:
        """How many replicas take part."""
        return len(self.subscribed) + len(self.unreachable)

    def remarks(self) -> tuple[str, ...]:
        """What is to be said of the replicas, each in a sentence."""
        return tuple(
            f"more than one live replica is named {name}: each counts, but nobody can tell them apart; give each a "
            "name of its own (--replica, WINDLASS_REPLICA), or none"
            for name in self.namesakes
        )

    def plans(self) -> Iterator[ServingPlan]:
        """The plans that instances follow."""
        return (report.plan for report in self.reports if report.plan is not None and report.plan.server == self.server)


def _present(seen: list[SeenReport]) -> dict[str, list[SeenReport]]:
    """The instances that live, by the replica's name: the one heard of last, and any other that was still heard of
    after this one had begun to report. Who is merely started anew is silent by then."""
    named: dict[str, list[SeenReport]] = {}
    for each in seen:
        named.setdefault(each.report.replica, []).append(each)
    present = {}
    for name, instances in named.items():
        newest = min(instances, key=lambda each: each.age)
        present[name] = [each for each in instances if each is newest or each.age < newest.known_for]
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
    follows = plan.models[model].of_revision(report.revision).planned(planned.version)
    if follows is None or follows.digest != planned.digest or follows.samples != planned.samples:
        return None
    said = report.version(model, planned.version)
    return None if said is None or said.digest not in {None, planned.digest} else said
