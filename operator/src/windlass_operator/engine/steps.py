"""The passage from one committed version to the next, and back. Each function is one concern of a pass over a model.

Their order in `reconcile` matters: what reports say comes before what is wanted, and that before going on, so that a
second pass over the same finds nothing left to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from windlass_contract.failures import Failure
from windlass_contract.identifiers import seconds
from windlass_contract.model_version import SignatureChange
from windlass_contract.plan import SamplesRef
from windlass_contract.record import ModelRecord, Phase, RolloutRecord, VersionRef

from .desired import Claim, claim_of, desired
from .draft import Draft, block_of
from .fleet import Fleet
from .gates import signature_change
from .planning import planned_candidate
from .prepare import (
    Preparation,
    breaker_on_candidate,
    breaker_on_committed,
    has_way_back,
    learned,
    preparation,
    signatures_of,
    verdict_on_candidate,
    verdict_on_committed,
    waits_for_replicas,
    without_fetcher,
)
from .restarts import Restarts

UNCLAIMED_GRACE_SECONDS = 10.0
"""A ModelVersion that is gone for a moment (renamed, applied anew) doesn't bring a lower version back."""


def hear_reports(draft: Draft, claims: Sequence[Claim], fleet: Fleet) -> None:
    """Learns from the reports, and acts on verdicts: these need no ModelVersion and wait for nobody."""
    record = draft.record
    update: dict[str, Any] = {}
    for role in ("committed", "previous"):
        ref = getattr(record, role)
        known = None if ref is None else _named(learned(fleet, draft.model, ref), claims)
        if known is not ref:
            update[role] = known
    if update:
        draft.change(**update)
    _judge_committed(draft, fleet)
    if record.rollout is not None:
        known = _named(learned(fleet, draft.model, record.rollout.candidate), claims)
        if known is not record.rollout.candidate:
            draft.change_rollout(candidate=known)
        _judge_candidate(draft, claims, fleet)


def follow_desired(draft: Draft, claims: Sequence[Claim], fleet: Fleet, elapsed: float, restarts: Restarts) -> None:
    """Starts, supersedes or withdraws a rollout, so that the one that runs is the desired version's."""
    want = _wanted(draft, claims, fleet)
    record = draft.record
    committed_claim = claim_of(claims, record.committed)
    if committed_claim is not None and record.unclaimed_seconds:
        draft.change(unclaimed_seconds=0.0)
    if record.rollout is not None:
        wanted = want is not None and want.matches(record.rollout.candidate)
        if want is not None and wanted and not restarts.other_way(record.rollout, want, committed_claim):
            _refresh(draft, want)
            return
        _end_unwanted(draft, claims, want)
    if want is None or want.matches(record.committed):
        return
    if committed_claim is None and _goes_down(record, want):
        gone = min(record.unclaimed_seconds + elapsed, UNCLAIMED_GRACE_SECONDS)
        draft.change(unclaimed_seconds=gone)
        if gone < UNCLAIMED_GRACE_SECONDS:
            return
    if waits_for_replicas(draft.record, fleet, draft.model) or without_fetcher(fleet, want):
        return
    if not restarts.wanted(want, committed_claim):
        _start(draft, want, fleet)
    elif restarts.free(draft.model):
        restarts.running = draft.model
        _start(draft, want, fleet, revision=restarts.revision_of(draft.model, want.version), back_to=restarts.back_to)


def go_on(draft: Draft, claims: Sequence[Claim], fleet: Fleet, elapsed: float) -> Preparation | None:
    """Takes a rollout through its steps to the commit. Returns how far the replicas are; None: nothing runs."""
    rollout = draft.record.rollout
    if rollout is None:
        return None
    ready = preparation(fleet, draft.model, planned_candidate(rollout), rollout.epoch)
    if rollout.epoch == 0:  # started in this very pass: what is reported is about an earlier plan
        return Preparation((), tuple(each.replica for each in fleet.subscribed), fleet.unreachable, (), ())
    claim = claim_of(claims, rollout.candidate)
    if claim is None or claim.obstacle is not None or not claim.active or rollout.paused:
        # Only while the set of ModelVersions is frozen, or somebody paused it: it stays where it is.
        return ready
    if not ready.complete:
        if rollout.revision and rollout.phase is Phase.PREPARING and ready.prepared:
            # Verdicts on what it found come first: nobody of the others has anything to add.
            draft.change_rollout(phase=Phase.ADMITTED)
            message = f"version {rollout.candidate.version} is prepared on a first new Pod: new Pods answer with it"
            draft.say(rollout.candidate, "Normal", "Admitted", message)
        elif rollout.phase is not Phase.STEPPING and not ready.held_up and elapsed:
            _wait(draft, rollout, seconds(claim.spec.rollout.progress_deadline), elapsed)
        return ready
    if rollout.step < len(claim.spec.rollout.steps):
        if rollout.phase is not Phase.STEPPING:
            draft.change_rollout(phase=Phase.STEPPING, step_seconds=0.0)
            draft.say(
                rollout.candidate,
                "Normal",
                "WaitingForApproval",
                f"version {rollout.candidate.version} is prepared on every replica and waits at step "
                f"{rollout.step + 1} for approval",
            )
        return ready
    _commit(draft, rollout, claim, ready)
    return ready


def age_previous(draft: Draft, claims: Sequence[Claim], fleet: Fleet, elapsed: float) -> None:
    """Unloads the previous version when it was kept for long enough."""
    record = draft.record
    previous = record.previous
    if previous is None:
        return
    claim = claim_of(claims, record.committed)
    if claim is not None and record.keep_previous_seconds != seconds(claim.spec.rollout.keep_previous):
        draft.change(keep_previous_seconds=float(seconds(claim.spec.rollout.keep_previous)))
    if block_of(record, previous.digest, previous.content_digest) is not None:
        draft.change(previous=None, previous_seconds=0.0)
        return
    kept = min(record.previous_seconds + elapsed, draft.record.keep_previous_seconds)
    if kept != record.previous_seconds:
        draft.change(previous_seconds=kept)
    # Who lags still answers with the previous version.
    lagging = any(report.models[draft.model].lagging for report in fleet.subscribed if draft.model in report.models)
    if kept >= draft.record.keep_previous_seconds and not lagging:
        draft.change(previous=None, previous_seconds=0.0)
        draft.say(
            previous,
            "Normal",
            "PreviousUnloaded",
            f"version {previous.version} was kept for {kept:.0f} s and is unloaded",
        )


def retire(draft: Draft, claims: Sequence[Claim]) -> None:
    """Stops serving when what serves is Retired and no ModelVersion of the model is Active any more."""
    committed = draft.record.committed
    claim = claim_of(claims, committed)
    if committed is None or claim is None or any(each.active for each in claims):
        return
    message = f"version {committed.version} was the last one and is Retired: model {draft.model} is no longer served"
    draft.change(committed=None, previous=None, previous_seconds=0.0)
    draft.judge(committed, "Retired", message)
    draft.say(committed, "Normal", "Retired", message)


def _judge_committed(draft: Draft, fleet: Fleet) -> None:
    committed = draft.record.committed
    if committed is None:
        return
    way_back = has_way_back(draft.record, fleet, draft.model)
    verdict = verdict_on_committed(fleet, draft.model, committed, way_back=way_back)
    if verdict is None and way_back and draft.record.previous is not None:
        verdict = breaker_on_committed(fleet, draft.model, committed, draft.record.previous)
    if verdict is None:
        return
    replica, failure = verdict
    known = block_of(draft.record, committed.digest) is not None
    draft.block(committed, failure)
    if way_back:
        draft.go_back()
        back = draft.record.committed
        message = f"version {committed.version} failed on {replica}: {failure.message}"
        draft.judge(committed, "RolledBack", message, failure, replica)
        to = f"; version {back.version} serves again" if back is not None else ""
        draft.say(committed, "Warning", "RolledBack", message + to)
    elif not known:
        message = f"version {committed.version} fails on every replica, and no version is resident to go back to"
        draft.say(committed, "Warning", "Quarantined", f"{message}: {failure.message}")


def _judge_candidate(draft: Draft, claims: Sequence[Claim], fleet: Fleet) -> None:
    record = draft.record
    rollout = record.rollout
    if rollout is None:
        return
    block = block_of(record, rollout.candidate.digest, rollout.candidate.content_digest)
    if block is not None:
        draft.quarantine(rollout.candidate, block.reason, f"the same files as version {block.version}: {block.message}")
        _reject(draft, rollout, f"it has the same files as version {block.version}, which is quarantined")
        return
    if rollout.epoch == 0:  # started in this very pass: what is reported is about an earlier attempt
        return
    verdict = verdict_on_candidate(fleet, draft.model, rollout) or breaker_on_candidate(fleet, draft.model, rollout)
    if verdict is None:
        changed = _changed_signatures(draft, claims, fleet, rollout)
        verdict = None if changed is None else ("", changed)
    if verdict is not None:
        replica, failure = verdict
        draft.block(rollout.candidate, failure)
        _reject(draft, rollout, failure.message, failure, replica)


def _changed_signatures(draft: Draft, claims: Sequence[Claim], fleet: Fleet, rollout: RolloutRecord) -> Failure | None:
    committed, claim = draft.record.committed, claim_of(claims, rollout.candidate)
    if committed is None or claim is None or claim.spec.verify.signature_change is SignatureChange.ALLOW:
        return None
    if not preparation(fleet, draft.model, planned_candidate(rollout), rollout.epoch).prepared:
        return None
    old, new = signatures_of(fleet, draft.model, committed), signatures_of(fleet, draft.model, rollout.candidate)
    return signature_change(old, new)


def _reject(draft: Draft, rollout: RolloutRecord, why: str, failure: Failure | None = None, replica: str = "") -> None:
    candidate = rollout.candidate
    draft.end_rollout()
    draft.judge(candidate, "Rejected", why, failure, replica)
    serving = draft.record.committed
    rest = (
        f"version {serving.version} goes on serving"
        if serving is not None
        else f"model {draft.model} is not served: a first version has no way back"
    )
    where = f" (found on {replica})" if replica else ""
    reason = f" ({failure.reason})" if failure is not None else ""
    draft.say(candidate, "Warning", "Rejected", f"version {candidate.version}{reason}: {why}{where}; {rest}")


def _wanted(draft: Draft, claims: Sequence[Claim], fleet: Fleet) -> Claim | None:
    """The desired version, after quarantining those that are known to be quarantined files under another digest."""
    while True:
        want = desired(claims, draft.record)
        if want is None or want.matches(draft.record.committed):
            return want
        ref = learned(fleet, draft.model, want.reference())
        block = block_of(draft.record, ref.digest, ref.content_digest)
        if block is None:
            return want
        message = f"the same files as version {block.version}: {block.message}"
        draft.quarantine(ref, block.reason, message)
        draft.say(ref, "Warning", "Rejected", f"version {ref.version} is quarantined: {message}")


def _refresh(draft: Draft, want: Claim) -> None:
    """The samples may be edited while the rollout runs: then they are run anew. Not once new Pods answer: these would
    have to stop, and there may be no others left."""
    rollout = draft.record.rollout
    if (
        rollout is not None
        and rollout.phase is not Phase.ADMITTED
        and not _same_samples(rollout.samples, want.samples())
    ):
        draft.change_rollout(samples=want.samples(), phase=Phase.PREPARING)


def _same_samples(one: SamplesRef | None, other: SamplesRef | None) -> bool:
    return (one and (one.digest, one.min_score)) == (other and (other.digest, other.min_score))


def _start(draft: Draft, want: Claim, fleet: Fleet, **restart: Any) -> None:
    record = draft.record
    ref = learned(fleet, draft.model, want.reference())
    samples = want.samples()
    extra: dict[str, Any] = dict(restart) if samples is None else {"samples": samples, **restart}
    lost = record.previous
    draft.change(rollout=RolloutRecord(candidate=ref, **extra), previous=None, previous_seconds=0.0)
    start = f"from version {record.committed.version}" if record.committed is not None else "as the first one"
    how = "comes with new Pods" if restart else "is prepared on every replica"
    draft.say(ref, "Normal", "RolloutStarted", f"version {ref.version} {how}, {start}")
    if lost is not None and lost.digest != ref.digest:
        draft.say(
            lost,
            "Normal",
            "PreviousUnloaded",
            f"version {lost.version} makes room for version {ref.version}: there is no resident way back until the "
            "next commit",
        )


def _goes_down(record: ModelRecord, want: Claim) -> bool:
    """Whether a lower version would replace one that nothing speaks against."""
    committed = record.committed
    return (
        committed is not None
        and want.version < committed.version
        and block_of(record, committed.digest, committed.content_digest) is None
    )


def _end_unwanted(draft: Draft, claims: Sequence[Claim], want: Claim | None) -> None:
    rollout = draft.end_rollout()
    if rollout is None:
        return
    candidate = rollout.candidate
    claim = claim_of(claims, candidate)
    if want is not None and want.version > candidate.version:
        outcome, why = "Superseded", f"version {want.version} is newer"
    elif claim is None:
        outcome, why = "Withdrawn", "its ModelVersion is gone"
    elif not claim.active:
        outcome, why = "Withdrawn", "it is Retired"
    elif claim.obstacle is not None:
        outcome, why = "Withdrawn", claim.obstacle.message
    elif want is not None and want.matches(candidate):
        outcome, why = "Withdrawn", f"its mode is {want.spec.rollout.mode} now, and it begins anew"
    else:
        outcome, why = "Withdrawn", "another version is wanted"
    draft.judge(candidate, outcome, why)
    draft.say(candidate, "Normal", outcome, f"the rollout of version {candidate.version} ends: {why}")


def _wait(draft: Draft, rollout: RolloutRecord, deadline: int, elapsed: float) -> None:
    """Past the deadline it is stalled, and goes on trying: slowness says nothing about the artifact."""
    waited = rollout.waiting_seconds + elapsed
    draft.change_rollout(waiting_seconds=waited)
    if rollout.waiting_seconds < deadline <= waited:
        draft.say(
            rollout.candidate,
            "Warning",
            "ProgressDeadlineExceeded",
            f"version {rollout.candidate.version} isn't prepared everywhere after {deadline} s; it is tried further",
        )


def _commit(draft: Draft, rollout: RolloutRecord, claim: Claim, ready: Preparation) -> None:
    before, candidate = draft.record.committed, rollout.candidate
    draft.change(
        committed=candidate,
        # New Pods don't hold the version before.
        previous=None if rollout.revision else before,
        previous_seconds=0.0,
        keep_previous_seconds=float(seconds(claim.spec.rollout.keep_previous)),
        unclaimed_seconds=0.0,
        rollout=None,
    )
    count = len(ready.prepared)
    message = f"version {candidate.version} serves on {count} replica{'' if count == 1 else 's'}"
    draft.judge(candidate, "Committed", message)
    draft.say(candidate, "Normal", "Committed", message)


def _named(ref: VersionRef, claims: Sequence[Claim]) -> VersionRef:
    """With the present name of its ModelVersion, and where that says its files are: it may have been written anew."""
    claim = claim_of(claims, ref)
    if claim is None:
        return ref
    named = claim.reference()
    update: dict[str, object] = {}
    if named.model_version != ref.model_version:
        update["model_version"] = named.model_version
    if named.uri != ref.uri:
        update |= {"uri": named.uri, "path": named.path}
    if named.image != ref.image:
        update["image"] = named.image
    return ref.model_copy(update=update) if update else ref
