"""What a decision would do now: decided from what is there, without doing anything."""

from __future__ import annotations

from dataclasses import dataclass

from windlass_contract.decision import Action
from windlass_contract.model_version import ModelVersionSpec, State
from windlass_contract.record import ModelRecord, Phase, VersionRef

from .errors import UserError
from .sources.source import SeenVersion, Snapshot


@dataclass(frozen=True)
class Intent:
    """A decision that makes sense now."""

    action: Action
    digest: str
    step: int | None
    will: str
    """What will happen, in a sentence."""


def intend(action: Action, seen: SeenVersion, snapshot: Snapshot) -> Intent:
    """Raises `UserError` when there is nothing to decide, saying what there is instead."""
    if seen.document is None:
        raise UserError(f"{seen.name}: {seen.problem}; a decision needs its server, model and version")
    spec = seen.document.spec
    record = snapshot.record(spec.server, spec.model)
    if record is None:
        raise UserError(f"{seen.name}: no operator has started anything for model {spec.model} on {spec.server} yet")
    if action is Action.UNDO:
        return _undo(seen, spec, record, snapshot)
    if action is Action.CLEAR:
        return _clear(seen, spec, record)
    return _steer(action, seen, spec, record)


def _steer(action: Action, seen: SeenVersion, spec: ModelVersionSpec, record: ModelRecord) -> Intent:
    rollout = record.rollout
    if rollout is None or not _names(rollout.candidate, spec):
        raise UserError(f"{seen.name} isn't being rolled out (it is {seen.phase}): there is nothing to {action.value}")
    digest, step = rollout.candidate.digest, rollout.step
    if action is Action.PAUSE:
        if rollout.paused:
            raise UserError(f"{seen.name} is paused already; `windlass resume {seen.name}` lets it go on")
        return Intent(action, digest, step, f"the rollout of version {spec.version} stops where it is ({_at(seen)})")
    if action is Action.RESUME:
        if not rollout.paused:
            raise UserError(f"{seen.name} isn't paused by anybody (it is {seen.phase}): there is nothing to resume")
        return Intent(action, digest, step, f"the rollout of version {spec.version} goes on from {_at(seen)}")
    waits = rollout.phase is Phase.STEPPING and step < len(spec.rollout.steps) and _pauses(spec, step)
    if not waits:
        raise UserError(f"{seen.name} doesn't wait for approval (it is {seen.phase}, {_at(seen)})")
    left = len(spec.rollout.steps) - step - 1
    then = f"step {step + 2} of {len(spec.rollout.steps)}" if left else "commit it"
    return Intent(action, digest, step, f"the rollout of version {spec.version} goes on: {then}")


def _undo(seen: SeenVersion, spec: ModelVersionSpec, record: ModelRecord, snapshot: Snapshot) -> Intent:
    rollout = record.rollout
    if rollout is not None and _names(rollout.candidate, spec):
        stays = f"version {record.committed.version} goes on serving" if record.committed else "nothing serves"
        return Intent(
            Action.UNDO,
            rollout.candidate.digest,
            None,
            f"the rollout of version {spec.version} ends, {stays}; its digest is held until "
            f"`windlass clear {seen.name}`",
        )
    if record.committed is not None and _names(record.committed, spec):
        if record.previous is None:
            before = _before(spec, record, snapshot)
            if before is not None:
                return Intent(
                    Action.UNDO,
                    record.committed.digest,
                    None,
                    f"version {before} is loaded and proven anew, and serves then; until then version {spec.version} "
                    f"does; its digest is held until `windlass clear {seen.name}`",
                )
            raise UserError(
                f"{seen.name}: there is no way back from version {spec.version}"
                f"{f' ({seen.status.way_back})' if seen.status and seen.status.way_back else ''}; "
                "pack a good version under a higher number instead"
            )
        return Intent(
            Action.UNDO,
            record.committed.digest,
            None,
            f"version {record.previous.version} serves again at once; the digest of version {spec.version} is held "
            f"until `windlass clear {seen.name}`",
        )
    raise UserError(
        f"{seen.name} neither serves nor is rolled out (it is {seen.phase}): there is nothing to undo"
        + (f"; version {record.committed.version} serves" if record.committed else "")
    )


def _before(spec: ModelVersionSpec, record: ModelRecord, snapshot: Snapshot) -> int | None:
    """The version to go back to where none is resident: the highest one below that is wanted and not blocked."""
    blocked = {each.digest for each in (*record.quarantine, *record.holds)}
    others = (each.document.spec for each in snapshot.versions if each.document is not None)
    return max(
        (
            other.version
            for other in others
            if (other.server, other.model) == (spec.server, spec.model)
            and other.version < spec.version
            and other.state is State.ACTIVE
            and other.artifact.digest not in blocked
        ),
        default=None,
    )


def _clear(seen: SeenVersion, spec: ModelVersionSpec, record: ModelRecord) -> Intent:
    declared = spec.artifact.digest
    for what, entries in (("quarantine", record.quarantine), ("hold", record.holds)):
        for entry in reversed(entries):
            if entry.digest == declared or (declared is None and entry.version == spec.version):
                return Intent(
                    Action.CLEAR,
                    entry.digest,
                    None,
                    f"the {what} of version {spec.version} is lifted"
                    f"{f' ({entry.message})' if entry.message else ''}; if it is the highest Active version it is "
                    "rolled out again",
                )
    raise UserError(f"{seen.name} is neither quarantined nor held (it is {seen.phase}): there is nothing to clear")


def _names(ref: VersionRef, spec: ModelVersionSpec) -> bool:
    return ref.version == spec.version and spec.artifact.digest in {None, ref.digest}


def _pauses(spec: ModelVersionSpec, step: int) -> bool:
    return spec.rollout.steps[step].pause is not None


def _at(seen: SeenVersion) -> str:
    return seen.status.step if seen.status and seen.status.step else "no steps"
