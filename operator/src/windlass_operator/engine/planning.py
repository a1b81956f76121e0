"""From the record to the serving plan: no decision is made here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windlass_contract.canonical import canonical_json
from windlass_contract.plan import ModelPlan, PlannedVersion, SamplesRef
from windlass_contract.record import ModelRecord, Phase, RolloutRecord, VersionRef

STABLE = "stable"
PREVIOUS = "previous"


def plan_models(records: Mapping[str, ModelRecord]) -> dict[str, ModelPlan]:
    """The plan's models, sorted by name. A model of which nothing has to be said isn't in it."""
    plans = {name: plan_model(records[name]) for name in sorted(records)}
    return {name: plan for name, plan in plans.items() if plan.model_fields_set}


def plan_model(record: ModelRecord) -> ModelPlan:
    """What the replicas have to hold: the committed version first, then the candidate or the previous one.

    Only what isn't the default is set: two plans that mean the same have the same digest.
    """
    fields: dict[str, Any] = {}
    versions: list[PlannedVersion] = []
    labels: dict[str, int] = {}
    if record.committed is not None:
        fields["committed"] = record.committed.version
        labels[STABLE] = record.committed.version
        versions.append(_planned(record.committed, weight=1000))
    if record.rollout is not None and record.rollout.revision:
        weight = {"weight": 1000} if record.rollout.phase is Phase.ADMITTED else {}
        planned = planned_candidate(record.rollout).model_copy(update=weight)
        fields["revisions"] = {record.rollout.revision: planned}
        if record.rollout.paused:
            fields["paused"] = True
    elif record.rollout is not None:
        fields["candidate"] = record.rollout.candidate.version
        versions.append(planned_candidate(record.rollout))
        if record.rollout.step:
            fields["step"] = record.rollout.step
        if record.rollout.paused:
            fields["paused"] = True
    if record.previous is not None:
        fields["previous"] = record.previous.version
        labels[PREVIOUS] = record.previous.version
        versions.append(_planned(record.previous))
    fields |= {"versions": versions, "labels": labels}
    for name in ("quarantine", "holds", "pinned", "decisions"):
        fields[name] = getattr(record, name)
    return ModelPlan(**{name: value for name, value in fields.items() if value or value == 0})


def planned_candidate(rollout: RolloutRecord) -> PlannedVersion:
    """A candidate may not be asked for by number until traffic reaches it."""
    planned = _planned(rollout.candidate, samples=rollout.samples, addressable=False)
    return planned.model_copy(update={"attempt": rollout.attempt}) if rollout.attempt else planned


def planned_committed(ref: VersionRef) -> PlannedVersion:
    """The entry of the version that answers by default."""
    return _planned(ref, weight=1000)


def same_models(one: Mapping[str, ModelPlan], other: Mapping[str, ModelPlan]) -> bool:
    """Whether two plans say the same."""
    return _content(one) == _content(other)


def _content(models: Mapping[str, ModelPlan]) -> bytes:
    return canonical_json({name: model.to_dict() for name, model in models.items()})


def _planned(
    ref: VersionRef, *, weight: int = 0, samples: SamplesRef | None = None, addressable: bool = True
) -> PlannedVersion:
    fields: dict[str, Any] = {"version": ref.version, "digest": ref.digest}
    if ref.path is not None:
        fields["path"] = ref.path
    if ref.uri is not None:
        fields["uri"] = ref.uri
    if weight:
        fields["weight"] = weight
    if samples is not None:
        fields["samples"] = SamplesRef(digest=samples.digest, min_score=samples.min_score)
    if not addressable:
        fields["addressable"] = False
    return PlannedVersion(**fields)
