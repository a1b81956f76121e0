"""Which attempt a candidate is in, so that nobody takes a verdict that was cleared for a new one."""

from __future__ import annotations

from dataclasses import replace

from engine_builders import MODEL, SERVER, Cluster, decision, failure, model_version

from windlass_contract.failures import Reason
from windlass_contract.plan import ServingPlan
from windlass_contract.record import RolloutRecordSet
from windlass_contract.report import VersionState
from windlass_operator.engine import reconcile
from windlass_operator.engine.planning import plan_models


def test_a_plan_says_which_attempt_its_candidate_is_in():
    cluster = Cluster("a").serves(model_version(1))
    cluster.failures["a", 2] = failure(Reason.LOAD_FAILED)
    cluster.model_versions.append(model_version(2))
    first = cluster.once().plan
    candidate = first.models[MODEL].planned(2)
    assert candidate.attempt == first.epoch
    assert first.models[MODEL].planned(1).attempt == 0
    cluster.settle()
    assert [each.version for each in cluster.model.quarantine] == [2]
    cluster.decisions.append(decision("clear", 2))
    cluster.failures.clear()
    cluster.states["a", 2] = VersionState.LOADING
    again = cluster.once().plan
    assert again.models[MODEL].planned(2).attempt == again.epoch > first.epoch
    cluster.settle()
    assert cluster.plan == again, "the attempt stays while the rollout does"
    lost = reconcile(replace(cluster.observe(1.0), record=None, plan=None))
    assert lost.plan == again, "also when its record is lost"
    cluster.states.clear()
    cluster.settle()
    assert {each.attempt for each in cluster.plan.models[MODEL].versions} == {0}


def test_a_rollout_of_an_older_operator_goes_on_without_an_attempt():
    cluster = Cluster("a").serves(model_version(1))
    cluster.states["a", 2] = VersionState.LOADING
    cluster.model_versions.append(model_version(2))
    cluster.settle()
    old = cluster.model.model_copy(update={"rollout": cluster.model.rollout.model_copy(update={"attempt": 0})})
    cluster.record = RolloutRecordSet(server=SERVER, models={MODEL: old})
    cluster.plan = ServingPlan.build(SERVER, cluster.plan.epoch, plan_models(cluster.record.models))
    outcome = cluster.once()
    assert outcome.plan.models[MODEL].planned(2).attempt == 0
    assert not outcome.write
