"""People's decisions: each is taken once, by its id, and only while digest and step are what it names."""

from __future__ import annotations

from collections.abc import Iterable

from windlass_contract.decision import Action, DecisionSpec
from windlass_contract.plan import Blocked
from windlass_contract.record import ModelRecord, Phase, VersionRef

from .draft import UNDONE, Draft
from .fleet import Fleet
from .prepare import has_way_back, learned

REMEMBERED = 200
"""Ids kept of decisions that are no longer to be seen, in case they come back."""


def take_decisions(draft: Draft, decisions: Iterable[DecisionSpec], fleet: Fleet) -> None:
    """Takes what applies now, in the order given; the others wait, and `waits_for` says what for."""
    mine = [each for each in decisions if each.model == draft.model]
    for decision in mine:
        if decision.id not in draft.record.decisions and not waits_for(draft.record, decision):
            _carry_out(draft, decision, fleet)
            draft.change(decisions=[*draft.record.decisions, decision.id])
    _leave_what_is_held(draft, fleet)
    _forget(draft, {each.id for each in mine})


def waits_for(record: ModelRecord, decision: DecisionSpec) -> str:
    """Why a decision can't be taken now, for people; empty: it can.

    One that has become pointless is taken, to no effect: it must not act on a later rollout. A resume waits as
    the pause before it does, or it would be over when the pause is taken.
    """
    if decision.action in {Action.UNDO, Action.CLEAR} or _is(record.committed, decision):
        return ""
    rollout = record.rollout
    if rollout is None or not _is(rollout.candidate, decision):
        return f"version {decision.version} with this digest isn't being rolled out"
    if decision.step is not None and decision.step > rollout.step:
        return f"it is about step {decision.step + 1}, the rollout is at step {rollout.step + 1}"
    if (
        decision.action is Action.APPROVE
        and rollout.phase is not Phase.STEPPING
        and decision.step in {None, rollout.step}
    ):
        return "the rollout doesn't wait for approval yet"
    return ""


def _carry_out(draft: Draft, decision: DecisionSpec, fleet: Fleet) -> None:
    if decision.action is Action.UNDO:
        _undo(draft, decision, fleet)
    elif decision.action is Action.CLEAR:
        _clear(draft, decision)
    else:
        _steer(draft, decision)


def _steer(draft: Draft, decision: DecisionSpec) -> None:
    """Approve, pause and resume: only for the running rollout, at the step that is named."""
    rollout = draft.record.rollout
    if rollout is None or not _is(rollout.candidate, decision) or decision.step not in {None, rollout.step}:
        return
    name = f"the rollout of version {decision.version}"
    if decision.action is Action.APPROVE:
        draft.change_rollout(approved_step=rollout.step, step=rollout.step + 1, step_seconds=0.0, phase=Phase.PREPARING)
        draft.say(
            rollout.candidate, "Normal", "Approved", f"{_who(decision)} let {name} go on from step {rollout.step + 1}"
        )
    elif decision.action is Action.PAUSE and not rollout.paused:
        draft.change_rollout(paused=True)
        draft.say(rollout.candidate, "Normal", "Paused", f"{_who(decision)} stopped {name}; resume lets it go on")
    elif decision.action is Action.RESUME and rollout.paused:
        draft.change_rollout(paused=False)
        draft.say(rollout.candidate, "Normal", "Resumed", f"{_who(decision)} let {name} go on")


def _undo(draft: Draft, decision: DecisionSpec, fleet: Fleet) -> None:
    """Holds the digest, whatever it is doing now, so that the end is the same if the version comes later."""
    record = draft.record
    known = [each for each in (record.committed, record.previous, record.rollout and record.rollout.candidate) if each]
    ref = next((each for each in known if _is(each, decision)), None)
    ref = ref or VersionRef(version=decision.version, digest=decision.digest)
    ref = learned(fleet, draft.model, ref)
    message = f"{_who(decision)} took version {ref.version} back"
    if not any(each.digest == ref.digest for each in record.holds):
        draft.hold(ref, UNDONE, message)
        draft.say(ref, "Warning", "Held", f"{message}; it is held until somebody clears it")


def _leave_what_is_held(draft: Draft, fleet: Fleet) -> None:
    """After all decisions, since the version to go back to may have been undone as well."""
    rollout = draft.record.rollout
    hold = None if rollout is None else _hold_on(draft, rollout.candidate)
    if rollout is not None and hold is not None:
        draft.end_rollout()
        draft.judge(rollout.candidate, "Undone", hold.message)
    committed = draft.record.committed
    hold = None if committed is None else _hold_on(draft, committed)
    if committed is not None and hold is not None and has_way_back(draft.record, fleet, draft.model):
        draft.go_back()
        draft.judge(committed, "Undone", hold.message)
        back = draft.record.committed
        if back is not None:
            draft.say(back, "Warning", "RolledBack", f"{hold.message}: version {back.version} serves again")


def _hold_on(draft: Draft, ref: VersionRef) -> Blocked | None:
    return next((each for each in draft.record.holds if each.digest == ref.digest), None)


def _clear(draft: Draft, decision: DecisionSpec) -> None:
    """Lifts hold and quarantine of a digest, and of the same files under other digests: they would bring it back."""
    record = draft.record
    ref = VersionRef(version=decision.version, digest=decision.digest)
    contents = {
        each.content_digest
        for each in (*record.quarantine, *record.holds)
        if each.digest == decision.digest and each.content_digest is not None
    }
    quarantine = [
        each for each in record.quarantine if each.digest != decision.digest and each.content_digest not in contents
    ]
    holds = [each for each in record.holds if each.digest != decision.digest]
    if len(quarantine) + len(holds) < len(record.quarantine) + len(record.holds):
        draft.change(quarantine=quarantine, holds=holds)
        draft.say(ref, "Normal", "Cleared", f"{_who(decision)} cleared version {decision.version}")


def _forget(draft: Draft, to_be_seen: set[str]) -> None:
    """Keeps the list short. What can still be seen is never forgotten, or it would be taken again."""
    gone = [each for each in draft.record.decisions if each not in to_be_seen]
    if len(gone) > REMEMBERED:
        dropped = set(gone[:-REMEMBERED])
        draft.change(decisions=[each for each in draft.record.decisions if each not in dropped])


def _is(ref: VersionRef | None, decision: DecisionSpec) -> bool:
    return ref is not None and (ref.version, ref.digest) == (decision.version, decision.digest)


def _who(decision: DecisionSpec) -> str:
    return decision.by or "somebody"
