"""What a pass starts from. Nothing rests on one copy: the plan in any report can stand in for the object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from windlass_contract.plan import LAST_EPOCH, ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.record import ModelRecord, Phase, PodTemplate, RolloutRecord, VersionRef

from .fleet import Fleet
from .interface import Observation
from .planning import plan_models, same_models


@dataclass(frozen=True)
class Base:
    """Where things stand."""

    models: Mapping[str, ModelRecord]
    plan: ServingPlan | None
    """What the models follow from; it is kept as it is if nothing changes."""
    highest_epoch: int
    """In the object or in any report."""
    conflict: bool
    """Some instance follows, or was offered, another plan of the same epoch: only a higher epoch heals that."""
    rebuilt: str
    """Why the record was rebuilt, for people; empty: it was not."""


def base_of(observation: Observation, fleet: Fleet) -> Base:
    """The record as observed, or rebuilt where the object is missing, older than a report's plan, or was edited."""
    reported = sorted(fleet.plans(), key=lambda plan: (plan.epoch, plan.digest))
    plan, record = observation.plan, observation.record
    if plan is not None and (plan.server != observation.server or plan.epoch == LAST_EPOCH):
        # Another's, or edited by somebody: nobody counts that far.
        plan = None
    epochs = [each.epoch for each in (*reported, *([plan] if plan is not None else []))]
    highest = min(max(epochs, default=0), LAST_EPOCH - 1)
    why = ""
    if reported and (plan is None or reported[-1].epoch > plan.epoch):
        found = "missing" if plan is None else f"at epoch {plan.epoch}"
        plan = reported[-1]
        why = f"the record was {found}, a replica follows epoch {plan.epoch}: rebuilt from its report"
    elif plan is not None:
        rivals = [each for each in reported if each.epoch == plan.epoch]
        if rivals and all(each.digest != plan.digest for each in rivals):
            plan = rivals[-1]
            why = f"replicas follow another plan of epoch {plan.epoch} than the record's: rebuilt from a report"
    models: Mapping[str, ModelRecord] = {} if record is None else record.models
    if plan is not None and not same_models(plan_models(models), plan.models):
        why = why or "record and plan didn't agree: rebuilt from the plan"
        models = rebuild(plan, models)
    conflict = plan is not None and any(
        each.epoch == highest and each.digest != plan.digest
        for each in (*reported, *([observation.plan] if observation.plan is not None else []))
    )
    # Or it follows this one, and was offered another by somebody else, as by an edited copy of the durable plan.
    conflict = conflict or any(
        report.plan_conflict and report.plan is not None and report.plan.epoch == highest for report in fleet.subscribed
    )
    return Base(models, plan, highest, conflict, why)


def rebuild(plan: ServingPlan, old: Mapping[str, ModelRecord]) -> dict[str, ModelRecord]:
    """The record that a plan was made from, as far as a plan can tell; details come from an older record."""
    models = {name: ModelRecord(verdicts=record.verdicts) for name, record in old.items() if record.verdicts}
    for name, planned in plan.models.items():
        models[name] = _rebuild_model(planned, old.get(name, ModelRecord()), plan.epoch)
    return models


def _rebuild_model(plan: ModelPlan, old: ModelRecord, epoch: int) -> ModelRecord:
    known = {
        (ref.version, ref.digest): ref
        for ref in (old.rollout.candidate if old.rollout is not None else None, old.previous, old.committed)
        if ref is not None
    }

    def reference(version: int | None) -> VersionRef | None:
        planned = None if version is None else plan.planned(version)
        return None if planned is None else _reference(planned, known)

    previous = reference(plan.previous)
    kept = previous is not None and old.previous is not None and previous.digest == old.previous.digest
    return ModelRecord(
        committed=reference(plan.committed),
        previous=previous,
        previous_seconds=old.previous_seconds if kept else 0.0,
        keep_previous_seconds=old.keep_previous_seconds,
        rollout=_rebuild_restart(plan, old.rollout, known, epoch)
        or _rebuild_rollout(plan, old.rollout, reference(plan.candidate), epoch),
        quarantine=plan.quarantine,
        holds=plan.holds,
        pinned=plan.pinned,
        decisions=plan.decisions,
        verdicts=old.verdicts,
    )


def _reference(planned: PlannedVersion, known: Mapping[tuple[int, str], VersionRef]) -> VersionRef:
    """What is known of a planned version, if its files lie where the plan says."""
    places = {name: getattr(planned, name) for name in ("path", "uri") if getattr(planned, name) is not None}
    fresh = VersionRef(version=planned.version, digest=planned.digest, **places)
    ref = known.get((planned.version, planned.digest), fresh)
    return ref if (ref.path, ref.uri) == (planned.path, planned.uri) else fresh


def _rebuild_restart(
    plan: ModelPlan, old: RolloutRecord | None, known: Mapping[tuple[int, str], VersionRef], epoch: int
) -> RolloutRecord | None:
    """Of mode Restart. Where it came from only the record knows: without, the template gets the revision of none."""
    for revision, planned in plan.revisions.items():
        same = old is not None and old.revision == revision
        return RolloutRecord(
            candidate=_reference(planned, known),
            phase=Phase.ADMITTED if planned.weight else Phase.PREPARING,
            paused=plan.paused,
            waiting_seconds=old.waiting_seconds if same and old is not None else 0.0,
            epoch=epoch,
            attempt=planned.attempt,
            samples=planned.samples,
            revision=revision,
            back_to=old.back_to if same and old is not None else PodTemplate(),
        )
    return None


def _rebuild_rollout(
    plan: ModelPlan, old: RolloutRecord | None, candidate: VersionRef | None, epoch: int
) -> RolloutRecord | None:
    if candidate is None:
        return None
    planned: PlannedVersion | None = plan.planned(candidate.version)
    samples = None if planned is None else planned.samples
    waited = old.waiting_seconds if old is not None and old.candidate.digest == candidate.digest else 0.0
    # At a pause it finds by itself that it has to wait. What prepared under an older plan may have been unloaded since.
    return RolloutRecord(
        candidate=candidate,
        phase=Phase.PREPARING,
        step=plan.step,
        paused=plan.paused,
        waiting_seconds=waited,
        epoch=epoch,
        attempt=0 if planned is None else planned.attempt,
        samples=samples,
    )
