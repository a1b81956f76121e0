"""What people are told of each ModelVersion."""

from __future__ import annotations

from engine_builders import Cluster, failure, model_version

from windlass_contract.failures import Gate, GateResult, Reason
from windlass_contract.model_version import ConditionStatus, ConditionType
from windlass_operator.engine import merge_transition_times


def test_every_condition_is_there_from_the_first_visit_with_its_generation():
    cluster = Cluster()
    cluster.model_versions.append(model_version(1, generation=3))
    cluster.once()
    status = cluster.status(1)
    assert [each.type for each in status.conditions] == list(ConditionType)
    assert {each.observed_generation for each in status.conditions} == {3}
    assert status.observed_generation == 3


def test_a_serving_version_says_on_how_many_replicas():
    cluster = Cluster("a", "b").serves(model_version(1))
    status = cluster.status(1)
    assert (status.phase, status.weight, status.message) == ("Serving", 1000, "serves on 2 replicas")
    assert (status.replicas.desired, status.replicas.prepared, status.replicas.committed) == (2, 2, 2)
    assert cluster.condition(1, "Verified") == ("True", "DigestMatches")
    assert cluster.condition(1, "Prepared")[0] == "True"
    assert cluster.condition(1, "Degraded")[0] == "False"


def test_files_that_are_not_there_are_not_fetched():
    cluster = Cluster("a")
    cluster.failures["a", 1] = failure(Reason.NOT_FOUND, Gate.DIGEST)
    cluster.model_versions.append(model_version(1))
    cluster.settle()
    assert cluster.condition(1, "Fetched") == ("False", "NotFound")


def test_files_that_are_not_as_declared_are_not_verified_and_the_replica_is_named():
    cluster = Cluster("a")
    cluster.failures["a", 1] = failure(Reason.DIGEST_MISMATCH, Gate.DIGEST)
    cluster.model_versions.append(model_version(1))
    cluster.settle()
    assert cluster.condition(1, "Fetched")[0] == "True"
    assert cluster.condition(1, "Verified") == ("False", "DigestMismatch")
    assert cluster.status(1).message.startswith("a: ")


def test_a_replica_that_lags_degrades_what_serves():
    cluster = Cluster("a", "b").serves(model_version(1))
    cluster.lagging.add("b")
    cluster.once()
    assert cluster.condition(1, "Degraded") == ("True", "Degraded")


def test_a_rejected_version_keeps_its_evidence_after_it_was_unloaded():
    cluster = Cluster("a").serves(model_version(1))
    cluster.failures["a", 2] = failure(Reason.ACCEPTANCE_FAILED, Gate.ACCEPTANCE)
    cluster.serves(model_version(2))
    evidence = cluster.status(2).evidence
    assert [(each.gate, each.result, each.replica) for each in evidence] == [("Acceptance", "Failed", "a")]


def test_gates_that_passed_are_shown_by_replica():
    cluster = Cluster("a").serves(model_version(1))
    ordinary = cluster.report

    def report(name: str):
        said = ordinary(name)
        model = said.report.models["cats-dogs"]
        gates = [GateResult(gate=Gate.PARITY, passed=True, statistic="3 of 3")]
        versions = [each.model_copy(update={"gates": gates}) for each in model.versions]
        models = {"cats-dogs": model.model_copy(update={"versions": versions})}
        return type(said)(said.report.model_copy(update={"models": models}), said.age)

    cluster.report = report
    cluster.once()
    shown = cluster.status(1).evidence[0]
    assert (shown.gate, shown.result, shown.statistic, shown.replica) == ("Parity", "Passed", "3 of 3", "a")


def test_a_transition_time_changes_only_with_the_status():
    cluster = Cluster("a")
    cluster.model_versions.append(model_version(1))
    cluster.once()
    first = merge_transition_times(None, cluster.status(1), "2026-01-01T00:00:00Z")
    assert {each.last_transition_time for each in first.conditions} == {"2026-01-01T00:00:00Z"}
    cluster.settle()
    second = merge_transition_times(first, cluster.status(1), "2026-01-02T00:00:00Z")
    times = {each.type: (each.status, each.last_transition_time) for each in second.conditions}
    assert times[ConditionType.READY] == (ConditionStatus.TRUE, "2026-01-02T00:00:00Z")
    assert times[ConditionType.DEGRADED] == (ConditionStatus.FALSE, "2026-01-01T00:00:00Z")
