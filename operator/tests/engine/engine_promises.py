"""The promises of the design that one pass, or one write, can break: found without the engine's help."""

from __future__ import annotations

from dataclasses import replace

from engine_builders import MODEL

from windlass_contract.plan import ModelPlan, ServingPlan
from windlass_contract.report import ServingReport, VersionState
from windlass_operator.engine import reconcile
from windlass_operator.engine.interface import Observation, Outcome


def known_plans(observation: Observation) -> list[ServingPlan]:
    followed = [each.report.plan for each in observation.reports if each.report.plan is not None]
    return [*followed, *([observation.plan] if observation.plan is not None else [])]


def newest_plans(observation: Observation) -> list[ModelPlan]:
    """What a pass can start from; more than one when two histories met."""
    known = known_plans(observation)
    highest = max((each.epoch for each in known), default=0)
    return [each.models.get(MODEL, ModelPlan()) for each in known if each.epoch == highest]


def committed_digest(model: ModelPlan) -> str:
    planned = None if model.committed is None else model.planned(model.committed)
    return "" if planned is None else planned.digest


def check_second_pass(observation: Observation, outcome: Outcome) -> None:
    again = reconcile(replace(observation, record=outcome.record, plan=outcome.plan, elapsed=0.0))
    assert not again.write, "a second pass over the same writes again"
    assert again.plan == outcome.plan
    assert not again.events


def check_epoch(observation: Observation, outcome: Outcome) -> None:
    if outcome.plan is None or not outcome.write:
        return
    known = known_plans(observation)
    if outcome.plan.digest not in {each.digest for each in known}:
        assert all(each.epoch < outcome.plan.epoch for each in known), "DESIGN 3: a new plan needs a new epoch"
    assert all(each.epoch <= outcome.plan.epoch for each in known), "DESIGN 3: the epoch went back"


def check_serving(observation: Observation, model: ModelPlan) -> None:
    """Only what is Retired is stopped, and only as the last one."""
    served = {each.committed for each in newest_plans(observation)}
    if model.committed is not None or None in served or not served:
        return
    specs = [seen.model_version.spec for seen in observation.model_versions]
    assert not observation.frozen, "DESIGN 4.3: nothing is ended while the set can't be trusted"
    retired = {each.version for each in specs if each.state == "Retired"}
    assert served <= retired, f"DESIGN 4.3: {served} was stopped, and not Retired"
    assert not any(each.state == "Active" for each in specs), "DESIGN 4.3: it wasn't the last one"


def check_way_back(observation: Observation, outcome: Outcome, subscribed: dict[str, ServingReport]) -> None:
    """A verdict on what serves takes it back in the same pass, while the version before is resident."""
    bases = newest_plans(observation)
    if len({committed_digest(each) for each in bases}) != 1 or bases[0].previous is None or outcome.plan is None:
        return
    base, left = bases[0], committed_digest(bases[0])
    before = base.planned(base.previous)
    after = outcome.plan.models.get(MODEL, ModelPlan())
    blocked = {each.digest for plan in (base, after) for each in (*plan.quarantine, *plan.holds)}
    if before is None or before.digest in blocked:
        return
    said = {}
    for report in subscribed.values():
        for each in report.models[MODEL].versions if MODEL in report.models else []:
            said.setdefault(each.digest, []).append(each.state)
    able = VersionState.PREPARED in said.get(before.digest, [])
    if able and VersionState.FAILED in said.get(left, []):
        assert committed_digest(after) != left, (
            "DESIGN 4.4: what failed goes on, although the version before is resident"
        )
    if able and any(_breaker_open_under(report, base) for report in subscribed.values()):
        assert committed_digest(after) != left, (
            "DESIGN 5, isolation: what fails its clients goes on, although the version before is resident"
        )


def _breaker_open_under(report: ServingReport, base: ModelPlan) -> bool:
    """Whether a replica that follows a plan with these roles has taken the committed version's traffic away."""
    followed = None if report.plan is None else report.plan.models.get(MODEL)
    if followed is None or not report.models[MODEL].breaker_open:
        return False
    return _roles(followed) == _roles(base)


def _roles(model: ModelPlan) -> tuple[str, str]:
    before = None if model.previous is None else model.planned(model.previous)
    return committed_digest(model), "" if before is None else before.digest


def check_descent(observation: Observation, outcome: Outcome, now: int) -> None:
    """A lower version is committed only if the higher one is blocked, Retired or gone."""
    assert outcome.record is not None
    model = outcome.record.models[MODEL]
    blocked = {each.digest for each in (*model.quarantine, *model.holds)}
    active = [
        seen.model_version.spec.artifact.digest
        for seen in observation.model_versions
        if seen.model_version.spec.state == "Active"
    ]
    for before in newest_plans(observation):
        left = committed_digest(before)
        if before.committed is not None and before.committed > now:
            assert left in blocked or left not in active, f"DESIGN 4.1: from {before.committed} down to {now}"


def check_commit(observation: Observation, outcome: Outcome, subscribed: dict[str, ServingReport]) -> None:
    """No commit before every replica of that moment has prepared, by what each said last."""
    if "Committed" not in {event.reason for event in outcome.events}:
        return
    assert outcome.record is not None
    committed = outcome.record.models[MODEL].committed
    assert committed is not None
    check_descent(observation, outcome, committed.version)
    assert outcome.plan is not None
    assert outcome.plan.models[MODEL].versions[0].digest == committed.digest
    assert outcome.plan.models[MODEL].labels["stable"] == committed.version
    needed = set(subscribed) | {each.name for each in observation.replicas or () if each.ready}
    assert needed, "DESIGN 3: committed with no replica to prepare"
    assert needed <= set(subscribed), f"DESIGN 3: committed although {needed - set(subscribed)} isn't heard"
    for name, report in subscribed.items():
        said = [
            each
            for each in report.models[MODEL].versions
            if each.digest == committed.digest and each.state is VersionState.PREPARED
        ]
        assert said, f"DESIGN 3: version {committed.version} was committed before {name} had prepared it"
