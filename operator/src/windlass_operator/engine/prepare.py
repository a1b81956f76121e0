"""Who has to have prepared a candidate, who has, and what the reports say against it. Everything by reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.manifest import Signature
from windlass_contract.plan import PlannedVersion
from windlass_contract.record import ModelRecord, RolloutRecord, VersionRef
from windlass_contract.report import VersionReport, VersionState

from .desired import Claim, fetched_uri
from .draft import block_of
from .fleet import Fleet, spoken_for
from .planning import planned_candidate, planned_committed


@dataclass(frozen=True)
class Preparation:
    """How far the replicas are with a version, as planned."""

    prepared: tuple[str, ...]
    waiting: tuple[str, ...]
    """Heard, and not prepared."""
    unreachable: tuple[str, ...]
    troubles: tuple[tuple[str, Failure], ...]
    """Replica and failure of those who can't go on for now, verdicts included."""
    states: tuple[tuple[str, VersionState], ...]
    """Of those who wait."""

    @property
    def complete(self) -> bool:
        """Whether every replica that gets traffic or is subscribed has prepared, at least one."""
        return bool(self.prepared) and not self.waiting and not self.unreachable

    @property
    def held_up(self) -> Literal["", "NoReplicas", "ReplicaUnreachable"]:
        """What it waits for that isn't the version's fault; the deadline stands still meanwhile."""
        if self.waiting:
            return ""
        if self.unreachable:
            return "ReplicaUnreachable"
        return "" if self.prepared else "NoReplicas"


def preparation(fleet: Fleet, model: str, planned: PlannedVersion, since: int = 0) -> Preparation:
    """Asks the present instances. `since`: reports under older plans don't count."""
    prepared, waiting, troubles, states = [], [], [], []
    for report in fleet.subscribed:
        said = spoken_for(report, model, planned, since)
        if said is not None and said.state is VersionState.PREPARED and said.digest == planned.digest:
            prepared.append(report.replica)
            continue
        waiting.append(report.replica)
        if said is not None:
            states.append((report.replica, said.state))
            if said.failure is not None:
                troubles.append((report.replica, said.failure))
    return Preparation(tuple(prepared), tuple(waiting), fleet.unreachable, tuple(troubles), tuple(states))


def verdict_on_candidate(fleet: Fleet, model: str, rollout: RolloutRecord) -> tuple[str, Failure] | None:
    """The first replica's verdict on a candidate, from any instance, gone ones included."""
    for report in fleet.reports:
        failure = _verdict(spoken_for(report, model, planned_candidate(rollout), rollout.epoch), rollout.candidate)
        if failure is not None:
            return report.replica, failure
    return None


def verdict_on_committed(fleet: Fleet, model: str, ref: VersionRef, *, way_back: bool) -> tuple[str, Failure] | None:
    """A verdict on the version that serves.

    While there is a way back one replica's verdict is enough. Without one it counts only when no replica is left that
    could answer: what serves somewhere goes on serving.
    """
    verdicts, able = [], bool(fleet.unreachable)
    for report in fleet.subscribed:
        said = spoken_for(report, model, planned_committed(ref), 0)
        failure = _verdict(said, ref)
        if failure is not None:
            verdicts.append((report.replica, failure))
        else:
            able = True
    return verdicts[0] if verdicts and (way_back or not able) else None


def breaker_on_committed(
    fleet: Fleet, model: str, committed: VersionRef, previous: VersionRef
) -> tuple[str, Failure] | None:
    """The first replica that took the committed version's traffic away and gave it to the previous one, and why.

    A report counts only if it follows a plan with the same two roles: else it speaks of another time.
    """
    for report in fleet.subscribed:
        said = spoken_for(report, model, planned_committed(committed), 0)
        if said is None or not report.models[model].breaker_open or report.plan is None:
            continue
        planned = report.plan.models[model]
        before = None if planned.previous is None else planned.planned(planned.previous)
        if planned.committed == committed.version and before is not None and before.digest == previous.digest:
            return report.replica, _fault_under_traffic(said)
    return None


def breaker_on_candidate(fleet: Fleet, model: str, rollout: RolloutRecord) -> tuple[str, Failure] | None:
    """The first replica that took the candidate's traffic away, and why."""
    for report in fleet.subscribed:
        said = spoken_for(report, model, planned_candidate(rollout), rollout.epoch)
        if said is not None and said.breaker is not None:
            return report.replica, _fault_under_traffic(said)
    return None


def _fault_under_traffic(said: VersionReport) -> Failure:
    if said.breaker is not None and said.breaker.reason is not Reason.ERROR_RATE_EXCEEDED:
        return said.breaker
    counters = said.counters
    return Failure(
        gate=Gate.ERROR_RATE,
        reason=Reason.ERROR_RATE_EXCEEDED,
        message=f"too many requests failed by its own fault: {counters.errors} of {counters.requests} since its start, "
        f"of which the version before answered {counters.fallbacks}; its worker was started anew {said.restarts} times",
    )


def has_way_back(record: ModelRecord, fleet: Fleet, model: str) -> bool:
    """Whether a version is resident that could serve again: not blocked, and not failed wherever it was tried."""
    previous = record.previous
    return (
        previous is not None
        and block_of(record, previous.digest, previous.content_digest) is None
        and verdict_on_committed(fleet, model, previous, way_back=False) is None
    )


def waits_for_replicas(record: ModelRecord, fleet: Fleet, model: str) -> bool:
    """Whether a rollout isn't begun yet: it would give up the way back, and nobody is heard who could prepare it."""
    return not fleet.subscribed and has_way_back(record, fleet, model)


def without_fetcher(fleet: Fleet, claim: Claim) -> tuple[str, ...]:
    """The replicas to which nothing brings this version's files: its rollout isn't begun while there are any."""
    uri = fetched_uri(claim.spec)
    if uri is None:
        return ()
    scheme = uri.partition("://")[0]
    return tuple(report.replica for report in fleet.subscribed if scheme not in report.fetches)


def learned(fleet: Fleet, model: str, ref: VersionRef) -> VersionRef:
    """The reference with what reports show of it: content digest and signatures. They are learned once."""
    content_digest, signatures = ref.content_digest, dict(ref.signatures)
    for report in fleet.reports:
        said = report.version(model, ref.version)
        if said is None or said.digest != ref.digest:
            continue
        content_digest = content_digest or said.content_digest
        if not signatures and said.state is VersionState.PREPARED:
            signatures = dict(said.signatures)
    update: dict[str, object] = {}
    if content_digest != ref.content_digest:
        update["content_digest"] = content_digest
    if signatures != ref.signatures:
        update["signatures"] = signatures
    return ref.model_copy(update=update) if update else ref


def signatures_of(fleet: Fleet, model: str, ref: VersionRef) -> Mapping[str, Signature]:
    """The loaded model's signatures, from the record or any report."""
    return learned(fleet, model, ref).signatures


def _verdict(said: VersionReport | None, ref: VersionRef) -> Failure | None:
    """Only what was found after the files verified as this digest says anything about the artifact."""
    if said is None or said.state is not VersionState.FAILED or said.digest != ref.digest or said.failure is None:
        return None
    return said.failure if said.failure.is_verdict else None
