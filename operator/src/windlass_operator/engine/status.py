"""The status of each ModelVersion: all conditions on every pass, with messages a person can act on.

kstatus reads `Ready`, `Stalled` and `Progressing`: `Ready` is true when nothing is left to do for this version, which
holds for one that serves, and also for one that a newer version has replaced. `phase` tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from windlass_contract.decision import DecisionSpec
from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.identifiers import seconds
from windlass_contract.model_version import (
    Condition,
    ConditionStatus,
    ConditionType,
    DecisionTaken,
    GateEvidence,
    ModelVersionStatus,
    ReplicaCounts,
)
from windlass_contract.plan import PlannedVersion
from windlass_contract.record import Phase
from windlass_contract.report import ServingReport, VersionReport, VersionState

from .conditions import Conditions
from .decisions import waits_for
from .desired import MOUNTED, Claim
from .draft import UNDONE, block_of
from .fleet import Fleet
from .interface import Observation, SeenModelVersion
from .prepare import has_way_back, waits_for_replicas, without_fetcher
from .view import View

_SHOWN_DECISIONS = 10
_NOBODY = "no replica of the server is heard of; start one with this server's name"
_ABSENT = frozenset({Reason.NOT_FOUND, Reason.MANIFEST_MISSING})


@dataclass(frozen=True)
class Summary:
    """The one word and the sentence that everything else agrees with."""

    phase: str
    reason: str
    message: str
    stalled: bool = False
    progressing: bool = False
    ready: bool = False


def statuses_of(observation: Observation, fleet: Fleet, views: Mapping[str, View]) -> dict[str, ModelVersionStatus]:
    """By name of the ModelVersion."""
    statuses = {}
    for view in views.values():
        for claim in view.claims:
            for seen in claim.objects:
                statuses[seen.name] = _status(observation, fleet, view, claim, seen)
    return statuses


def merge_transition_times(
    previous: ModelVersionStatus | None, new: ModelVersionStatus, now: str
) -> ModelVersionStatus:
    """`new` with the time of each condition's last change: kept where the status is what it was, else `now`.

    `now`: RFC 3339, UTC.
    """
    known = {each.type: each for each in previous.conditions} if previous is not None else {}
    conditions = []
    for condition in new.conditions:
        before = known.get(condition.type)
        kept = before.last_transition_time if before is not None and before.status is condition.status else None
        conditions.append(condition.model_copy(update={"last_transition_time": kept or now}))
    return new.model_copy(update={"conditions": conditions})


def _status(
    observation: Observation, fleet: Fleet, view: View, claim: Claim, seen: SeenModelVersion
) -> ModelVersionStatus:
    role = view.role_of(claim)
    said = _said(fleet, view.model, claim)
    summary = _summarise(view, claim, role, fleet, observation.frozen)
    rollout = view.record.rollout if role == "candidate" else None
    counts = ReplicaCounts(
        desired=fleet.size,
        prepared=sum(each.state is VersionState.PREPARED for _, each in said) if role else 0,
        committed=sum(_routed(report, view.model, claim.version) for report, _ in said) if role else 0,
    )
    return ModelVersionStatus(
        observed_generation=seen.generation,
        phase=summary.phase,
        message=summary.message,
        digest=claim.digest,
        step=_step(claim, rollout.step) if rollout is not None else "",
        weight=1000 if role == "committed" else 0,
        replicas=counts,
        way_back=_way_back(view, role, fleet),
        evidence=_evidence(view, claim, said),
        decisions=_decisions(observation.decisions, view, claim),
        conditions=_conditions(view, claim, role, fleet, summary, said, counts, seen.generation),
    )


def _summarise(view: View, claim: Claim, role: str, fleet: Fleet, frozen: str) -> Summary:
    """What there is to say about a version, most pressing first."""
    record = view.record
    if role == "committed":
        return _committed(view, claim, fleet)
    block = None if claim.digest is None else block_of(record, claim.digest)
    verdict = view.last_verdict(claim)
    if not claim.active:
        kept = ", and is kept as the way back for a while" if role == "previous" else ""
        return Summary("Retired", "Retired", f"Retired: it isn't wanted{kept}", ready=True)
    if block is not None and any(each.digest == block.digest for each in record.holds):
        reason = "Held" if block.reason == UNDONE else block.reason
        message = f"{block.message}; clear version {claim.version} to let it roll out"
        return Summary("Held", reason, message, stalled=True)
    if block is not None:
        phase = "RolledBack" if verdict is not None and verdict.outcome == "RolledBack" else "Quarantined"
        message = (
            f"{block.message}. These model files stay quarantined however they are packed: roll out a model that "
            f"differs under a new number, or clear version {claim.version}, and they may be tried again"
        )
        return Summary(phase, block.reason, f"{message}. {_who_serves(view)}", stalled=True)
    if claim.obstacle is not None:
        obstacle = claim.obstacle
        phase = {"Conflict": "Conflict", "SamplesUnavailable": "Stalled"}.get(obstacle.reason, "NotSupported")
        return Summary(phase, obstacle.reason, obstacle.message, stalled=True)
    if role == "candidate":
        return _candidate(view, claim)
    wanted = view.desired
    if wanted is not None and wanted.version > claim.version:
        way = "; it is resident, as the way back" if role == "previous" else ""
        phase = "Previous" if role == "previous" else "Superseded"
        return Summary(phase, phase, f"version {wanted.version} is newer{way}", ready=True)
    if not frozen and (missing := without_fetcher(fleet, claim)):
        message = f"{_no_fetcher(claim, missing)}. {_who_serves(view)}"
        return Summary("Stalled", Reason.NO_FETCHER, message, stalled=True)
    previous = record.previous
    if not frozen and previous is not None and waits_for_replicas(record, fleet, view.model):
        message = f"{_NOBODY}. Until then version {previous.version} stays the way back. {_who_serves(view)}"
        return Summary("Pending", "NoReplicas", message, progressing=True)
    if not frozen and view.waits_for:
        message = f"it waits until the Pods were started anew for model {view.waits_for}. {_who_serves(view)}"
        return Summary("Pending", "WaitsForRestart", message, progressing=True)
    why = f"nothing is started while {frozen}" if frozen else "it is about to be started"
    return Summary("Pending", "Frozen" if frozen else "Pending", why, progressing=not frozen, stalled=bool(frozen))


def _committed(view: View, claim: Claim, fleet: Fleet) -> Summary:
    committed = view.record.committed
    block = None if committed is None else block_of(view.record, committed.digest)
    if block is not None:
        rollout = view.record.rollout
        rest = (
            "it goes on serving where it can, since there is no other version to serve; add one"
            if rollout is None
            else f"it goes on serving where it can until version {rollout.candidate.version} is committed"
        )
        return Summary("Serving", block.reason, f"{block.message}; {rest}", stalled=True)
    if not claim.active:
        rest = "it serves until an Active version is committed, or until none of the model's is Active"
        return Summary("Serving", "Retired", f"Retired, but {rest}", progressing=True)
    serving = sum(_routed(report, view.model, claim.version) for report in fleet.subscribed)
    if fleet.size and serving == fleet.size:
        return Summary("Serving", "Serving", f"serves on {_replicas(serving)}", ready=True)
    missing = "no replica is heard of" if not fleet.size else f"serves on {serving} of {_replicas(fleet.size)}"
    return Summary(
        "Serving", "Serving" if serving else "NotServed", missing, progressing=not serving, ready=bool(serving)
    )


def _candidate(view: View, claim: Claim) -> Summary:
    rollout, ready = view.record.rollout, view.ready
    if rollout is None or ready is None:
        return Summary("Preparing", "RolloutStarted", "the rollout was just started", progressing=True)
    if rollout.paused:
        return Summary("Paused", "Paused", "paused by a person; resume lets it go on", progressing=True)
    if rollout.phase is Phase.STEPPING:
        message = f"prepared, and waits at {_step(claim, rollout.step)} for approval"
        return Summary("Paused", "WaitingForApproval", message, progressing=True)
    how = "; the Deployment starts its Pods anew, one after the other" if rollout.revision else ""
    done = f"{len(ready.prepared)} of {_replicas(len(ready.prepared) + len(ready.waiting) + len(ready.unreachable))}"
    if ready.held_up == "NoReplicas":
        message = f"{_NOBODY}. {_who_serves(view)}"
        return Summary("Preparing", "NoReplicas", message, progressing=True)
    if ready.held_up:
        names = ", ".join(ready.unreachable[:5])
        message = f"prepared on {done}; can't hear {names}: look at its log and its way to the operator"
        return Summary("Preparing", ready.held_up, message, progressing=True)
    if ready.troubles:
        replica, failure = ready.troubles[0]
        message = f"{replica}: {failure.message} (prepared on {done}; it is tried again)"
        return Summary("Stalled", failure.reason, f"{message}. {_who_serves(view)}", stalled=True)
    deadline = claim.spec.rollout.progress_deadline
    if rollout.waiting_seconds >= seconds(deadline):
        states = ", ".join(f"{replica} is {state}" for replica, state in ready.states[:5]) or "nothing is reported yet"
        message = f"prepared on {done} after {deadline}: {states}. It is tried further. {_who_serves(view)}"
        return Summary("Stalled", "ProgressDeadlineExceeded", message, stalled=True)
    if rollout.phase is Phase.ADMITTED:
        message = f"new Pods answer with it: prepared on {done}{how}"
        return Summary("Preparing", "Admitted", message, progressing=True)
    return Summary("Preparing", "Preparing", f"prepared on {done}{how}. {_who_serves(view)}", progressing=True)


def _conditions(
    view: View,
    claim: Claim,
    role: str,
    fleet: Fleet,
    summary: Summary,
    said: list[tuple[ServingReport, VersionReport]],
    counts: ReplicaCounts,
    generation: int,
) -> list[Condition]:
    """All of them, in one order, from the first visit on."""
    made = Conditions(generation)
    troubles = [(report.replica, each.failure) for report, each in said if each.failure is not None]
    verified = [report.replica for report, each in said if each.digest == claim.digest and claim.digest is not None]
    absent = [
        (replica, failure) for replica, failure in troubles if failure.gate is Gate.FETCH or failure.reason in _ABSENT
    ]
    arriving = [(report.replica, each.progress or 0.0) for report, each in said if each.state is VersionState.FETCHING]
    refused = [
        (replica, failure)
        for replica, failure in troubles
        if failure.gate is Gate.DIGEST and failure.reason not in _ABSENT
    ]
    if absent:
        made.add(ConditionType.FETCHED, ConditionStatus.FALSE, absent[0][1].reason, _told(absent))
    elif arriving:
        how_far = ", ".join(f"{replica} has {progress:.0%}" for replica, progress in arriving[:5])
        made.add(ConditionType.FETCHED, ConditionStatus.FALSE, "Fetching", f"the files are on their way: {how_far}")
    elif summary.reason == Reason.NO_FETCHER:
        made.add(ConditionType.FETCHED, ConditionStatus.FALSE, summary.reason, summary.message)
    elif verified or refused:
        made.add(ConditionType.FETCHED, ConditionStatus.TRUE, "Found", f"the files are there on {_replicas(len(said))}")
    else:
        made.add(ConditionType.FETCHED, ConditionStatus.UNKNOWN, "NotLookedAt", "no replica was asked to hold it")
    if refused:
        made.add(ConditionType.VERIFIED, ConditionStatus.FALSE, refused[0][1].reason, _told(refused))
    elif verified:
        made.add(ConditionType.VERIFIED, ConditionStatus.TRUE, "DigestMatches", f"on {_replicas(len(verified))}")
    else:
        made.add(ConditionType.VERIFIED, ConditionStatus.UNKNOWN, "NotVerified", "no replica has verified it yet")
    everywhere = bool(role) and counts.desired > 0 and counts.prepared >= counts.desired
    made.add_if(
        ConditionType.PREPARED,
        everywhere,
        "Prepared" if everywhere else "NotPrepared",
        f"on {counts.prepared} of {_replicas(counts.desired)}" if role else "no replica is to hold it",
    )
    made.add_if(ConditionType.PROGRESSING, summary.progressing, summary.reason, summary.message)
    made.add_if(ConditionType.READY, summary.ready, summary.reason, summary.message)
    degraded = _degraded(view, role, fleet, troubles, counts)
    made.add_if(ConditionType.DEGRADED, bool(degraded), "Degraded" if degraded else "AsExpected", degraded)
    made.add_if(
        ConditionType.STALLED,
        summary.stalled,
        summary.reason if summary.stalled else "AsExpected",
        summary.message if summary.stalled else "",
    )
    verdict = view.last_verdict(claim)
    back = verdict is not None and verdict.outcome in {"Rejected", "RolledBack", "Undone"}
    made.add_if(
        ConditionType.ROLLED_BACK,
        back,
        verdict.outcome if verdict is not None and back else "NotRolledBack",
        verdict.message if verdict is not None and back else "",
    )
    return made.list()


def _degraded(view: View, role: str, fleet: Fleet, troubles: list[tuple[str, Failure]], counts: ReplicaCounts) -> str:
    """What is wrong with a version that serves; empty: nothing."""
    if role != "committed":
        return ""
    reports = [report for report in fleet.subscribed if view.model in report.models]
    lagging = [report.replica for report in reports if report.models[view.model].lagging]
    opened = [report.replica for report in reports if report.models[view.model].breaker_open]
    wrong = []
    if troubles:
        wrong.append(_told(troubles))
    if lagging:
        wrong.append(f"still answered by another version on {', '.join(lagging[:5])}")
    if opened:
        wrong.append(f"it failed its clients: traffic is taken away on {', '.join(opened[:5])}")
    if fleet.unreachable:
        wrong.append(f"can't hear {', '.join(fleet.unreachable[:5])}")
    rollout = view.record.rollout
    restarting = rollout is not None and rollout.phase is Phase.ADMITTED  # new Pods hold the next version instead
    if not wrong and not restarting and counts.prepared < counts.desired:
        wrong.append(f"resident on {counts.prepared} of {_replicas(counts.desired)}")
    return "; ".join(wrong)


def _way_back(view: View, role: str, fleet: Fleet) -> str:
    record = view.record
    if role == "candidate":
        if record.committed is None:
            return "none: it is the first version; if it fails, the model isn't served"
        return f"version {record.committed.version}, which serves"
    if role != "committed":
        return ""
    previous = record.previous
    if previous is not None and has_way_back(record, fleet, view.model):
        left = max(record.keep_previous_seconds - record.previous_seconds, 0.0)
        return f"version {previous.version}, resident for {_about(left)} more"
    if record.rollout is not None:
        return f"none resident: version {record.rollout.candidate.version} is being prepared in its place"
    return "none resident: another version has to be prepared first"


def _evidence(view: View, claim: Claim, said: list[tuple[ServingReport, VersionReport]]) -> list[GateEvidence]:
    """Of the replicas that hold it; after that, what it was rejected for."""
    evidence = [
        GateEvidence(
            gate=gate.gate,
            result="Passed" if gate.passed else "Failed",
            statistic=gate.statistic,
            replica=report.replica,
        )
        for report, each in said
        for gate in each.gates
    ]
    verdict = view.last_verdict(claim)
    failure = verdict.failure if verdict is not None else None
    shown = any(each.result == "Failed" for each in evidence)
    if verdict is not None and failure is not None and not shown:
        evidence.append(
            GateEvidence(gate=failure.gate, result="Failed", statistic=failure.message, replica=verdict.replica)
        )
    return evidence


def _decisions(decisions: tuple[DecisionSpec, ...], view: View, claim: Claim) -> list[DecisionTaken]:
    """The last ones about this version, and what became of each."""
    mine = [
        each
        for each in decisions
        if (each.model, each.version, each.digest) == (view.model, claim.version, claim.digest)
    ]
    return [
        DecisionTaken(
            id=each.id,
            action=each.action,
            by=each.by,
            at=each.at,
            outcome="taken" if each.id in view.record.decisions else f"waits: {waits_for(view.record, each)}",
        )
        for each in mine[-_SHOWN_DECISIONS:]
    ]


def _said(fleet: Fleet, model: str, claim: Claim) -> list[tuple[ServingReport, VersionReport]]:
    """What the present instances say of this version, and not of another with its number."""
    said = []
    for report in fleet.subscribed:
        each = report.version(model, claim.version)
        planned = _follows(report, model, claim.version)
        if each is None or each.digest not in {None, claim.digest}:
            continue
        if planned is None or planned.digest == claim.digest:
            said.append((report, each))
    return said


def _follows(report: ServingReport, model: str, version: int) -> PlannedVersion | None:
    """What its plan says of a version to a replica of its revision."""
    if report.plan is None or model not in report.plan.models:
        return None
    return report.plan.models[model].of_revision(report.revision).planned(version)


def _routed(report: ServingReport, model: str, version: int) -> bool:
    return model in report.models and report.models[model].serving.get(version, 0) > 0


def _who_serves(view: View) -> str:
    committed = view.record.committed
    return f"Version {committed.version} serves" if committed is not None else f"Model {view.model} is not served"


def _no_fetcher(claim: Claim, missing: tuple[str, ...]) -> str:
    scheme = claim.spec.artifact.uri.partition("://")[0]
    return (
        f"not started: spec.artifact.uri is {scheme}://, and on {', '.join(missing[:5])} there is no fetcher that "
        f"may get such files: add one to the server (docs/artifacts.md), or put the files there and use {MOUNTED}"
    )


def _step(claim: Claim, index: int) -> str:
    count = len(claim.spec.rollout.steps)
    return f"step {index + 1} of {count}: pause" if index < count else ""


def _told(troubles: list[tuple[str, Failure]]) -> str:
    replica, failure = troubles[0]
    more = f" (and {len(troubles) - 1} more)" if len(troubles) > 1 else ""
    return f"{replica}: {failure.message}{more}"


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"


def _about(length: float) -> str:
    return f"{length / 60:.0f} min" if length >= 120 else f"{length:.0f} s"
