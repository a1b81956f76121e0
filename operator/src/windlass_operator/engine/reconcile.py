"""One pass over a server: from what is observed to plan, record, statuses and events."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from windlass_contract.canonical import canonical_json
from windlass_contract.plan import ServingPlan
from windlass_contract.record import ModelRecord, PodTemplate, RolloutRecordSet

from .decisions import take_decisions
from .desired import claims_of
from .draft import Draft
from .fleet import Fleet, still_gathering
from .interface import Event, Observation, Outcome, SeenModelVersion
from .planning import plan_models, same_models
from .recover import Base, base_of
from .restarts import Restarts, template_after
from .status import statuses_of
from .steps import age_previous, follow_desired, go_on, hear_reports, retire
from .view import View, remarks_of

LONGEST_LOOK_AWAY_SECONDS = 60.0
"""A longer time between two passes counts as this: nobody watched, so it is no evidence of waiting."""
CLOCK_WRITE_SECONDS = 10.0
"""Clocks in the record are written when they pass a multiple of this; an operator's death loses no more."""
MOST_ROUNDS = 10
"""One decision may make room for the next (an approval, a commit, the end of `keepPrevious`): all in one pass."""
REVISIT_SECONDS = 5.0
"""While a clock runs."""

_CLOCKS = ("previousSeconds", "unclaimedSeconds")
_ROLLOUT_CLOCKS = ("stepSeconds", "waitingSeconds")


def reconcile(observation: Observation) -> Outcome:
    """Decides. Level-triggered: a second pass over the outcome of the first, with nothing new, writes nothing."""
    wait = still_gathering(observation)
    if wait > 0:
        return Outcome(observation.record, observation.plan, write=False, revisit_after=wait, gathering=True)
    fleet = Fleet.of(observation)
    base = base_of(observation, fleet)
    elapsed = min(max(observation.elapsed, 0.0), LONGEST_LOOK_AWAY_SECONDS)

    objects: dict[str, list[SeenModelVersion]] = {}
    for seen in observation.model_versions:
        if seen.model_version.spec.server == observation.server:
            objects.setdefault(seen.model_version.spec.model, []).append(seen)
    decided_on = {each.model for each in observation.decisions if each.server == observation.server}
    ending = None if observation.record is None else observation.record.template
    restarts = Restarts.of(observation.template, ending, base.models, base.highest_epoch + 1)
    views: dict[str, View] = {}
    events: list[Event] = []
    names = sorted(set(base.models) | set(objects) | decided_on)
    for model in names:
        before = base.models.get(model, ModelRecord())
        views[model] = _pass_over(observation, before, fleet, model, objects.get(model, []), elapsed, restarts, events)
    records = {name: view.record for name, view in views.items()}
    if restarts.over(records):
        _, going_back = template_after(observation.template, ending, base.models, records)
        restarts = Restarts.of(observation.template, going_back, records, restarts.attempt)
        for model in names:
            before = records[model]
            views[model] = _pass_over(observation, before, fleet, model, objects.get(model, []), 0.0, restarts, events)

    drafts = {
        name: _numbered(view.record, base.highest_epoch + 1)
        for name, view in views.items()
        if _says_something(view.record)
    }
    plan = _next_plan(observation.server, base, drafts)
    epoch = 0 if plan is None else plan.epoch
    models = {name: _dated(record, epoch) for name, record in drafts.items()}
    template, remembered = template_after(observation.template, ending, base.models, models)
    record = _record(observation, models, remembered)
    write = bool(events) or _has_to_be_written(observation, record, plan)
    if base.rebuilt and write:
        told = sorted({seen.name for group in objects.values() for seen in group})
        events = [Event(name, "Warning", "RecordRebuilt", base.rebuilt) for name in told[:1]] + events
    return Outcome(
        record=record,
        plan=plan,
        write=write,
        statuses=statuses_of(observation, fleet, views),
        events=tuple(events) if write else (),
        template=template,
        revisit_after=REVISIT_SECONDS if template is not None or any(map(_clock_runs, models.values())) else None,
        remarks=(*remarks_of(views), *fleet.remarks()),
    )


def _pass_over(
    observation: Observation,
    before: ModelRecord,
    fleet: Fleet,
    model: str,
    objects: list[SeenModelVersion],
    elapsed: float,
    restarts: Restarts,
    events: list[Event],
) -> View:
    """Adds to `events` what has to be told."""
    claims = claims_of(objects, before, restarts.forbids)
    names = {(claim.version, claim.digest): claim.seen.name for claim in claims if claim.digest is not None}
    draft = Draft(model, before, names)
    mine = [each for each in observation.decisions if each.server == observation.server]
    ready = None
    for _ in range(MOST_ROUNDS):
        start = draft.record
        take_decisions(draft, mine, fleet)
        hear_reports(draft, claims, fleet)
        # What is committed decides which claims can be started: a rollback may have changed it.
        claims = claims_of(objects, draft.record, restarts.forbids)
        if not observation.frozen:
            follow_desired(draft, claims, fleet, elapsed, restarts)
        committed = draft.record.committed
        ready = go_on(draft, claims, fleet, elapsed)
        age_previous(draft, claims, fleet, elapsed if draft.record.committed is committed else 0.0)
        if not observation.frozen:
            retire(draft, claims)
        claims = claims_of(objects, draft.record, restarts.forbids)
        if draft.record is start:
            break
        elapsed = 0.0
    events += draft.events
    return View(model, draft.record, claims, ready, restarts.waited_for(model, claims, draft.record))


def _says_something(record: ModelRecord) -> bool:
    return canonical_json(record.to_dict()) != canonical_json(ModelRecord().to_dict())


def _next_plan(server: str, base: Base, models: Mapping[str, ModelRecord]) -> ServingPlan | None:
    planned = plan_models(models)
    if base.plan is None:
        return ServingPlan.build(server, base.highest_epoch + 1, planned) if planned else None
    if base.conflict or base.plan.epoch < base.highest_epoch or not same_models(planned, base.plan.models):
        return ServingPlan.build(server, base.highest_epoch + 1, planned)
    return base.plan


def _numbered(record: ModelRecord, attempt: int) -> ModelRecord:
    """With the attempt of a rollout that was started in this pass. It makes the plan a new one, of this epoch."""
    rollout = record.rollout
    if rollout is None or rollout.epoch or rollout.attempt:
        return record
    return record.model_copy(update={"rollout": rollout.model_copy(update={"attempt": attempt})})


def _dated(record: ModelRecord, epoch: int) -> ModelRecord:
    """With the epoch of the plan that shows what was decided in this pass."""
    update: dict[str, Any] = {}
    if record.rollout is not None and record.rollout.epoch == 0:
        update["rollout"] = record.rollout.model_copy(update={"epoch": epoch})
    if any(verdict.epoch == 0 for verdict in record.verdicts):
        update["verdicts"] = [
            verdict if verdict.epoch else verdict.model_copy(update={"epoch": epoch}) for verdict in record.verdicts
        ]
    return record.model_copy(update=update) if update else record


def _record(
    observation: Observation, models: dict[str, ModelRecord], template: PodTemplate | None
) -> RolloutRecordSet | None:
    if observation.record is None and not models:
        return None
    # Not written where there is none: an older operator reads what this one wrote.
    extra = {} if template is None else {"template": template}
    if observation.record is None:
        return RolloutRecordSet(server=observation.server, models=models, **extra)
    update = {"server": observation.server, "models": models, "template": template}
    return observation.record.model_copy(update=update)


def _has_to_be_written(observation: Observation, record: RolloutRecordSet | None, plan: ServingPlan | None) -> bool:
    if plan is not None and (observation.plan is None or plan.digest != observation.plan.digest):
        return True
    if record is None:
        return False
    if observation.record is None:
        return True
    return _without_clocks(record) != _without_clocks(observation.record)


def _without_clocks(record: RolloutRecordSet) -> bytes:
    """What has to be written at once; clocks count by the tens of seconds."""
    content = record.model_dump(mode="json", by_alias=True)
    for model in content.get("models", {}).values():
        for holder, clocks in ((model, _CLOCKS), (model.get("rollout") or {}, _ROLLOUT_CLOCKS)):
            for clock in clocks:
                if clock in holder:
                    holder[clock] = math.floor(holder[clock] / CLOCK_WRITE_SECONDS)
    return canonical_json(content)


def _clock_runs(record: ModelRecord) -> bool:
    return record.rollout is not None or record.previous is not None or record.unclaimed_seconds > 0
