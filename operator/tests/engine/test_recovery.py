"""Nothing rests on one copy: what is done when the object is missing, old, edited or contradicted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_builders import MODEL, PLAIN, SERVER, Cluster, decision, digest, failure, model_version

from windlass_contract.failures import Reason
from windlass_contract.plan import ServingPlan
from windlass_contract.record import ModelRecord, RolloutRecordSet
from windlass_contract.report import ServingReport, VersionState
from windlass_operator.engine import reconcile
from windlass_operator.engine.interface import SeenReplica, SeenReport


def test_a_lost_object_is_rebuilt_from_a_report_as_it_was():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    cluster.decisions.append(decision("undo", 2))
    cluster.settle()
    plan, seen = cluster.plan, cluster.observe(1.0)
    outcome = reconcile(replace(seen, record=None, plan=None))
    assert outcome.write
    assert outcome.plan == plan
    model = outcome.record.models[MODEL]
    assert (model.committed.version, model.committed.signatures) == (1, PLAIN)
    assert [each.digest for each in model.holds] == [digest(2)]
    assert model.decisions == ["undo-2"]
    assert "RecordRebuilt" in {event.reason for event in outcome.events}


def test_an_object_older_than_a_report_is_rebuilt():
    cluster = Cluster("a").serves(model_version(1))
    old_record, old_plan = cluster.record, cluster.plan
    cluster.serves(model_version(2))
    cluster.failures["a", 3] = failure(Reason.LOAD_FAILED)
    cluster.serves(model_version(3))
    outcome = reconcile(replace(cluster.observe(1.0), record=old_record, plan=old_plan))
    assert outcome.plan == cluster.plan
    assert outcome.record.models[MODEL].committed.version == 2
    assert [each.version for each in outcome.record.models[MODEL].quarantine] == [3]


def test_a_rebuilt_rollout_keeps_its_step_and_its_pause():
    cluster = Cluster("a").serves(model_version(1))
    cluster.serves(model_version(2, rollout={"steps": [{"pause": {}}, {"pause": {}}]}))
    cluster.decisions += [decision("approve", 2, step=0), decision("pause", 2)]
    cluster.settle()
    cluster.record = cluster.plan = None
    lost = cluster.reports
    cluster.report = lambda name: lost[name]
    cluster.settle()
    rollout = cluster.model.rollout
    assert (rollout.candidate.version, rollout.step, rollout.paused) == (2, 1, True)


def test_a_record_that_was_edited_gives_way_to_the_plan_beside_it():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    edited = RolloutRecordSet(server=SERVER, models={MODEL: ModelRecord(committed=cluster.model.previous)})
    outcome = reconcile(replace(cluster.observe(1.0), record=edited))
    assert outcome.record.models[MODEL].committed.version == 2
    assert outcome.plan == cluster.plan
    assert outcome.write


def test_a_new_plan_has_a_higher_epoch_than_any_report():
    cluster = Cluster("a").serves(model_version(1))
    ahead = ServingPlan.build(SERVER, 40, dict(cluster.plan.models))
    gone = ServingReport(server=SERVER, replica="z", instance="f" * 8, sequence=1, plan=ahead)
    cluster.extra_reports = [SeenReport(gone, 100.0)]
    cluster.model_versions.append(model_version(2))
    assert cluster.once().plan.epoch == 41


def test_another_plan_of_the_same_epoch_is_healed_by_a_higher_one():
    cluster = Cluster("a", "b").serves(model_version(1))
    rival = ServingPlan.build(SERVER, cluster.plan.epoch, {})
    other = ServingReport(server=SERVER, replica="b", instance="0" * 8, sequence=9, plan=rival, plan_conflict=True)
    said = {"a": cluster.report("a"), "b": SeenReport(other, 0.1)}
    outcome = reconcile(replace(cluster.observe(1.0), reports=tuple(said.values())))
    assert outcome.plan.epoch == cluster.plan.epoch + 1
    assert outcome.plan.models[MODEL].committed == 1


def test_a_replica_that_was_offered_another_plan_of_its_epoch_is_healed_by_one_higher_epoch():
    cluster = Cluster("a").serves(model_version(1))
    seen = cluster.report("a")
    told = replace(seen, report=seen.report.model_copy(update={"plan_conflict": True}))
    healed = reconcile(replace(cluster.observe(1.0), reports=(told,)))
    assert healed.write
    assert healed.plan.epoch == cluster.plan.epoch + 1
    assert healed.plan.models == cluster.plan.models
    # Until it has taken that one it says the same: once is enough.
    again = reconcile(replace(cluster.observe(1.0), record=healed.record, plan=healed.plan, reports=(told,)))
    assert again.plan == healed.plan


def test_a_plan_of_another_server_in_a_report_is_ignored():
    cluster = Cluster("a").serves(model_version(1))
    foreign = ServingPlan.build("dogs", 99, {})
    report = ServingReport(server=SERVER, replica="z", instance="f" * 8, sequence=1, plan=foreign)
    cluster.extra_reports = [SeenReport(report, 1.0)]
    assert cluster.once().plan.epoch < 99


def test_reports_of_another_server_are_ignored():
    cluster = Cluster("a")
    cluster.model_versions.append(model_version(1))
    cluster.extra_reports = [
        SeenReport(ServingReport(server="dogs", replica="z", instance="f" * 8, sequence=1), 0.1),
    ]
    cluster.settle()
    assert cluster.committed == 1


def test_after_its_start_an_operator_changes_nothing_until_the_replicas_were_heard():
    cluster = Cluster("a")
    cluster.model_versions.append(model_version(1))
    outcome = reconcile(replace(cluster.observe(1.0), uptime=0.5))
    assert outcome.gathering
    assert not outcome.write
    assert 0 < outcome.revisit_after <= 2


def test_with_an_orchestrator_it_waits_for_all_ready_replicas_or_fifteen_seconds():
    cluster = Cluster("a", "b", orchestrated=True)
    cluster.silent.add("b")
    cluster.model_versions.append(model_version(1))
    seen = cluster.observe(1.0)
    assert reconcile(replace(seen, uptime=14.0)).gathering
    assert not reconcile(replace(seen, uptime=15.0)).gathering
    unready = (SeenReplica("a", ready=True), SeenReplica("b", ready=False))
    assert not reconcile(replace(seen, uptime=0.0, replicas=unready)).gathering


def test_a_replica_speaks_through_its_present_instance():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(2))
    cluster.once()
    before = cluster.report("a")
    cluster.states["a", 2] = VersionState.LOADING
    cluster.extra_reports = [SeenReport(before.report.model_copy(update={"instance": "1" * 8}), 3.0)]
    cluster.settle()
    assert cluster.committed == 1


def test_a_verdict_of_an_instance_that_is_gone_still_counts():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(2))
    cluster.once()
    cluster.failures["a", 2] = failure(Reason.WORKER_CRASHED)
    crashed = cluster.report("a").report.model_copy(update={"instance": "1" * 8})
    cluster.failures.clear()
    cluster.states["a", 2] = VersionState.LOADING
    cluster.extra_reports = [SeenReport(crashed, 30.0)]
    cluster.settle()
    assert [each.version for each in cluster.model.quarantine] == [2]


def test_a_draining_replica_is_not_waited_for():
    cluster = Cluster("a", "b").serves(model_version(1))
    cluster.states["b", 2] = VersionState.WAITING
    cluster.model_versions.append(model_version(2))
    ordinary = cluster.report

    def report(name: str) -> SeenReport:
        said = ordinary(name)
        return SeenReport(said.report.model_copy(update={"draining": name == "b"}), said.age)

    cluster.report = report
    cluster.settle()
    assert cluster.committed == 2


def test_clocks_are_written_by_tens_of_seconds():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    writes = [cluster.once(elapsed=1.0).write for _ in range(40)]
    assert 3 <= sum(writes) <= 5
    assert cluster.model.previous_seconds >= 40
    assert cluster.outcome.revisit_after == 5.0


def test_nothing_runs_so_nothing_is_to_be_looked_at_by_time_alone():
    cluster = Cluster("a").serves(model_version(1))
    assert cluster.once().revisit_after is None


@pytest.mark.parametrize("epoch", [2**52 + 1, 2**53 - 2, 2**53 - 1])
def test_a_report_with_an_epoch_that_can_not_be_counted_on_from_says_nothing(epoch):
    cluster = Cluster("a").serves(model_version(1))
    seen = cluster.observe(1.0)
    (mine,) = seen.reports
    wild = mine.report.model_copy(update={"replica": "wild", "plan": ServingPlan.build(SERVER, epoch, {})})
    outcome = reconcile(replace(seen, reports=(*seen.reports, SeenReport(wild, 0.1))))
    assert outcome.plan == cluster.plan
    assert not outcome.write


def test_the_highest_epoch_that_a_report_may_have_is_counted_on_from():
    cluster = Cluster("a").serves(model_version(1))
    seen = cluster.observe(1.0)
    (mine,) = seen.reports
    high = mine.report.model_copy(update={"plan": ServingPlan.build(SERVER, 2**52, cluster.plan.models)})
    taken = reconcile(replace(seen, reports=(SeenReport(high, 0.1),), model_versions=(model_version(2),)))
    assert taken.plan.epoch == 2**52 + 1
    follows = SeenReport(high.model_copy(update={"plan": taken.plan}), 0.1)
    then = reconcile(replace(seen, plan=taken.plan, record=taken.record, reports=(follows,)))
    assert then.plan.epoch >= taken.plan.epoch


@pytest.mark.parametrize("epoch", [2**53 - 2, 2**53 - 1])
def test_an_object_edited_to_the_last_epoch_stops_nothing(epoch):
    cluster = Cluster("a").serves(model_version(1))
    seen = cluster.observe(1.0)
    edited = ServingPlan.build(SERVER, epoch, cluster.plan.models)
    outcome = reconcile(replace(seen, plan=edited, model_versions=(model_version(2),)))
    assert outcome.plan is not None


def namesake(cluster: Cluster, age: float, known_for: float, **changes) -> None:
    """Another instance of replica a, which holds what a holds."""
    said = cluster.report("a").report.model_copy(update={"instance": "1" * 8, **changes})
    cluster.extra_reports = [SeenReport(said, age, known_for)]


def test_two_live_replicas_of_one_name_both_have_to_prepare():
    cluster = Cluster("a").serves(model_version(1))
    first = cluster.report
    cluster.report = lambda name: replace(first(name), known_for=60.0)
    namesake(cluster, age=1.0, known_for=60.0)
    cluster.model_versions.append(model_version(2))
    outcome = cluster.settle()
    assert (cluster.committed, cluster.model.rollout.candidate.version) == (1, 2), "the other one didn't prepare it"
    assert cluster.status(2).replicas.desired == 2
    assert [remark for remark in outcome.remarks if "more than one live replica is named a" in remark]
    namesake(cluster, age=1.0, known_for=60.0)
    cluster.settle()
    assert cluster.committed == 2


@pytest.mark.parametrize(
    ("case", "age", "changes"),
    [
        ("it fell silent before this one began", 3.0, {}),
        ("it has been silent for too long", 6.0, {}),
        ("it is leaving", 1.0, {"draining": True}),
    ],
)
def test_an_instance_that_was_replaced_does_not_count(case, age, changes):
    cluster = Cluster("a").serves(model_version(1))
    first = cluster.report
    cluster.report = lambda name: replace(first(name), known_for=2.0 if age == 3.0 else 60.0)
    namesake(cluster, age=age, known_for=60.0, **changes)
    cluster.model_versions.append(model_version(2))
    cluster.settle()
    assert cluster.committed == 2, case
    assert cluster.status(2).replicas.desired == 1
