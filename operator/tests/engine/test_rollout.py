"""A rollout from the first version to the next, and what stops it."""

from __future__ import annotations

import pytest
from engine_builders import MODEL, Cluster, content, decision, digest, failure, model_version, signature

from windlass_contract.failures import VERDICTS, Gate, Reason
from windlass_contract.report import VersionState


def roles(cluster: Cluster) -> tuple[int | None, int | None, int | None]:
    """Committed, previous and candidate, as planned."""
    model = cluster.plan.models[MODEL]
    return model.committed, model.previous, model.candidate


def test_without_model_versions_there_is_no_record_no_plan_and_no_write():
    outcome = Cluster("a").once()
    assert (outcome.record, outcome.plan, outcome.write) == (None, None, False)


def test_a_first_version_is_prepared_without_traffic_and_then_committed():
    cluster = Cluster("a", "b")
    cluster.model_versions.append(model_version(1))
    plan = cluster.once().plan
    assert plan.epoch == 1
    assert [(each.version, each.weight, each.addressable) for each in plan.models[MODEL].versions] == [(1, 0, False)]
    assert not plan.has_traffic
    plan = cluster.once().plan
    assert plan.epoch == 2
    assert [(each.version, each.weight, each.addressable) for each in plan.models[MODEL].versions] == [(1, 1000, False)]
    assert cluster.events == ["RolloutStarted", "Committed"]


def test_a_newer_version_is_loaded_beside_and_the_old_one_kept_as_the_way_back():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(2))
    cluster.once()
    assert roles(cluster) == (1, None, 2)
    cluster.once()
    assert roles(cluster) == (2, 1, None)
    planned = cluster.plan.models[MODEL]
    assert [(each.version, each.weight, each.addressable) for each in planned.versions] == [
        (2, 1000, False),
        (1, 0, False),  # as the previous version it may be asked for all the same
    ]
    assert planned.labels == {"stable": 2, "previous": 1}
    assert cluster.status(2).way_back.startswith("version 1, resident")


def test_labels_move_only_at_the_commit():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(2))
    cluster.once()
    assert cluster.plan.models[MODEL].labels == {"stable": 1}


def test_nothing_is_committed_while_one_replica_is_still_loading():
    cluster = Cluster("a", "b").serves(model_version(1))
    cluster.states["b", 2] = VersionState.LOADING
    cluster.model_versions.append(model_version(2))
    cluster.settle()
    assert roles(cluster) == (1, None, 2)
    del cluster.states["b", 2]
    cluster.settle()
    assert cluster.committed == 2


def test_a_replica_that_holds_other_files_under_the_number_does_not_count():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(2))
    cluster.once()
    said = cluster.report("a").report
    version = said.models[MODEL].versions[1].model_copy(update={"digest": digest(2, 7)})
    models = {MODEL: said.models[MODEL].model_copy(update={"versions": [said.models[MODEL].versions[0], version]})}
    cluster.report = lambda _name: type(cluster.reports["a"])(said.model_copy(update={"models": models}), 0.5)
    cluster.settle()
    assert cluster.committed == 1


def test_without_replicas_it_waits_and_the_deadline_stands_still():
    cluster = Cluster()
    cluster.model_versions.append(model_version(1, rollout={"progressDeadline": "5s"}))
    for _ in range(10):
        cluster.once(elapsed=3.0)
    assert cluster.model.rollout.waiting_seconds == 0
    assert cluster.condition(1, "Progressing") == ("True", "NoReplicas")
    assert cluster.condition(1, "Stalled")[0] == "False"


def test_a_ready_replica_that_is_not_heard_holds_the_commit_back_and_is_no_verdict():
    cluster = Cluster("a", "b", orchestrated=True).serves(model_version(1))
    cluster.silent.add("b")
    cluster.model_versions.append(model_version(2, rollout={"progressDeadline": "5s"}))
    for _ in range(10):
        cluster.once(elapsed=3.0)
    assert roles(cluster) == (1, None, 2)
    assert cluster.model.rollout.waiting_seconds <= 3.0
    assert cluster.condition(2, "Progressing") == ("True", "ReplicaUnreachable")
    assert "b" in cluster.status(2).message
    assert cluster.model.quarantine == []


def test_past_the_deadline_it_is_stalled_and_tried_further_and_never_quarantined():
    cluster = Cluster("a").serves(model_version(1))
    cluster.states["a", 2] = VersionState.LOADING
    cluster.model_versions.append(model_version(2, rollout={"progressDeadline": "5s"}))
    for _ in range(4):
        cluster.once(elapsed=3.0)
    assert cluster.condition(2, "Stalled") == ("True", "ProgressDeadlineExceeded")
    assert cluster.events.count("ProgressDeadlineExceeded") == 1
    assert cluster.committed == 1
    del cluster.states["a", 2]
    cluster.settle()
    assert cluster.committed == 2
    assert cluster.condition(2, "Stalled")[0] == "False"


@pytest.mark.parametrize("reason", sorted(VERDICTS - {Reason.SIGNATURE_CHANGED}))
def test_a_verdict_on_any_replica_rejects_and_quarantines(reason):
    cluster = Cluster("a", "b").serves(model_version(1))
    cluster.failures["b", 2] = failure(reason)
    cluster.model_versions.append(model_version(2))
    cluster.settle()
    assert roles(cluster) == (1, None, None)
    block = cluster.model.quarantine[0]
    assert (block.version, block.digest, block.content_digest, block.reason) == (2, digest(2), content(2), reason)
    assert cluster.model.verdicts[-1].outcome == "Rejected"
    assert cluster.model.verdicts[-1].replica == "b"
    assert cluster.status(2).phase == "Quarantined"
    assert cluster.condition(2, "Stalled") == ("True", reason)
    assert cluster.condition(2, "RolledBack") == ("True", "Rejected")
    assert cluster.condition(1, "Ready")[0] == "True"


@pytest.mark.parametrize("reason", sorted(set(Reason) - VERDICTS))
def test_a_circumstance_stalls_and_never_quarantines(reason):
    cluster = Cluster("a").serves(model_version(1))
    cluster.failures["a", 2] = failure(reason, Gate.DIGEST)
    cluster.model_versions.append(model_version(2))
    cluster.settle()
    assert roles(cluster) == (1, None, 2)
    assert cluster.model.quarantine == []
    assert cluster.status(2).phase == "Stalled"
    assert cluster.condition(2, "Stalled") == ("True", reason)
    cluster.failures.clear()
    cluster.settle()
    assert cluster.committed == 2


def test_the_same_files_packed_anew_are_quarantined_as_soon_as_a_report_shows_it():
    cluster = Cluster("a").serves(model_version(1))
    cluster.failures["a", 2] = failure(Reason.LOAD_FAILED)
    cluster.model_versions.append(model_version(2))
    cluster.settle()
    cluster.contents[3] = content(2)
    cluster.states["a", 3] = VersionState.LOADING
    cluster.model_versions.append(model_version(3))
    cluster.settle()
    assert roles(cluster) == (1, None, None)
    assert [block.digest for block in cluster.model.quarantine] == [digest(2), digest(3)]
    assert "version 2" in cluster.status(3).message


def test_a_first_version_that_fails_leaves_the_model_unserved_and_says_so():
    cluster = Cluster("a")
    cluster.failures["a", 1] = failure(Reason.LOAD_FAILED)
    cluster.model_versions.append(model_version(1))
    outcome = cluster.settle()
    assert roles(cluster) == (None, None, None)
    assert not cluster.plan.has_traffic
    assert "not served" in cluster.status(1).message
    assert outcome.remarks == (f"model {MODEL} is not served",)


def test_a_changed_signature_rejects_unless_it_is_allowed():
    other = {"serving_default": signature({"z": ("FP32", [-1, 4])}, {"y": ("FP32", [-1, 2])})}
    cluster = Cluster("a").serves(model_version(1))
    cluster.signatures[2] = cluster.signatures[3] = other
    cluster.model_versions.append(model_version(2))
    cluster.settle()
    assert cluster.committed == 1
    assert cluster.status(2).phase == "Quarantined"
    assert cluster.condition(2, "RolledBack") == ("True", "Rejected")
    cluster.model_versions.append(model_version(3, verify={"signatureChange": "Allow"}))
    cluster.contents[3] = content(3)
    cluster.settle()
    assert cluster.committed == 3


def test_a_newer_version_supersedes_and_takes_the_candidates_place():
    cluster = Cluster("a").serves(model_version(1))
    cluster.states["a", 2] = VersionState.LOADING
    cluster.model_versions.append(model_version(2))
    cluster.once()
    cluster.model_versions.append(model_version(3))
    cluster.once()
    assert roles(cluster) == (1, None, 3)
    assert [each.version for each in cluster.plan.models[MODEL].versions] == [1, 3]
    cluster.settle()
    assert cluster.committed == 3
    assert "Superseded" in cluster.events
    assert cluster.status(2).phase == "Superseded"


def test_a_newer_candidate_ends_keep_previous_at_once():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    assert roles(cluster) == (2, 1, None)
    cluster.states["a", 3] = VersionState.LOADING
    cluster.model_versions.append(model_version(3))
    cluster.once()
    assert roles(cluster) == (2, None, 3)
    assert cluster.status(2).way_back.startswith("none resident")


def test_the_previous_version_is_unloaded_when_its_time_is_over():
    cluster = Cluster("a").serves(model_version(1), model_version(2, rollout={"keepPrevious": "20s"}))
    cluster.once(elapsed=15.0)
    assert roles(cluster) == (2, 1, None)
    cluster.once(elapsed=15.0)
    assert roles(cluster) == (2, None, None)
    assert "PreviousUnloaded" in cluster.events


def test_the_previous_version_stays_while_a_replica_still_answers_with_it():
    cluster = Cluster("a").serves(model_version(1), model_version(2, rollout={"keepPrevious": "5s"}))
    cluster.lagging.add("a")
    for _ in range(3):
        cluster.once(elapsed=5.0)
    assert roles(cluster) == (2, 1, None)
    cluster.lagging.clear()
    cluster.once(elapsed=5.0)
    assert roles(cluster) == (2, None, None)


def test_a_long_time_without_a_pass_counts_as_a_minute():
    cluster = Cluster("a").serves(model_version(1), model_version(2, rollout={"keepPrevious": "10m"}))
    cluster.once(elapsed=1e6)
    assert cluster.model.previous_seconds <= 62


def test_a_verdict_on_what_was_committed_goes_back_while_the_previous_one_is_resident():
    cluster = Cluster("a", "b").serves(model_version(1), model_version(2))
    cluster.failures["b", 2] = failure(Reason.WORKER_CRASHED)
    cluster.once()
    assert roles(cluster) == (1, None, None)
    cluster.settle()
    assert cluster.committed == 1
    assert cluster.status(2).phase == "RolledBack"
    assert cluster.condition(2, "RolledBack") == ("True", "RolledBack")
    assert cluster.plan.models[MODEL].labels == {"stable": 1}


def test_going_back_waits_for_nobody():
    cluster = Cluster("a", "b", orchestrated=True).serves(model_version(1), model_version(2))
    cluster.silent.add("a")
    cluster.failures["b", 2] = failure(Reason.WORKER_CRASHED)
    cluster.once()
    assert cluster.committed == 1


def test_without_a_way_back_one_replicas_verdict_does_not_stop_the_others():
    cluster = Cluster("a", "b").serves(model_version(1), model_version(2, rollout={"keepPrevious": "0s"}))
    cluster.failures["b", 2] = failure(Reason.WORKER_CRASHED)
    cluster.settle()
    assert cluster.committed == 2
    assert cluster.model.quarantine == []
    assert cluster.condition(2, "Degraded")[0] == "True"


def test_a_version_that_fails_on_every_replica_gives_way_to_a_lower_one():
    cluster = Cluster("a", "b").serves(model_version(1), model_version(2, rollout={"keepPrevious": "0s"}))
    cluster.failures["a", 2] = cluster.failures["b", 2] = failure(Reason.LOAD_FAILED)
    cluster.settle()
    assert cluster.committed == 1


def test_samples_are_planned_for_the_candidate_only():
    samples = {"samples": {"file": "accept.json", "minScore": "95%"}}
    cluster = Cluster("a")
    cluster.model_versions.append(model_version(1, verify=samples, samples_digest=digest(77)))
    cluster.once()
    planned = cluster.plan.models[MODEL].versions[0]
    assert (planned.samples.digest, planned.samples.min_score) == (digest(77), 950)
    cluster.settle()
    assert cluster.plan.models[MODEL].versions[0].samples is None


def test_samples_that_can_not_be_had_stall_and_nothing_is_started():
    cluster = Cluster("a").serves(model_version(1))
    verify = {"samples": {"file": "accept.json"}}
    cluster.model_versions.append(model_version(2, verify=verify, samples_problem="accept.json is missing"))
    cluster.settle()
    assert roles(cluster) == (1, None, None)
    assert cluster.condition(2, "Stalled") == ("True", "SamplesUnavailable")
    assert cluster.status(2).message == "accept.json is missing"


def test_samples_edited_in_mid_rollout_are_to_be_passed_anew():
    verify = {"samples": {"file": "accept.json"}}
    cluster = Cluster("a").serves(model_version(1))
    cluster.states["a", 2] = VersionState.LOADING
    cluster.model_versions.append(model_version(2, verify=verify, samples_digest=digest(77)))
    cluster.once()
    old = cluster.report("a")
    del cluster.states["a", 2]
    cluster.model_versions[-1] = model_version(2, verify=verify, samples_digest=digest(78))
    cluster.report = lambda _name: type(old)(old.report, 0.5)
    cluster.once()
    assert cluster.committed == 1
    del cluster.report
    cluster.settle()
    assert cluster.committed == 2


def test_a_pause_waits_prepared_and_without_traffic_for_approval():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(2, rollout={"steps": [{"pause": {}}]}))
    cluster.settle()
    assert roles(cluster) == (1, None, 2)
    assert cluster.plan.models[MODEL].versions[1].weight == 0
    assert cluster.status(2).phase == "Paused"
    assert cluster.condition(2, "Progressing") == ("True", "WaitingForApproval")
    cluster.decisions.append(decision("approve", 2, step=0))
    cluster.settle()
    assert cluster.committed == 2


def test_an_approved_rollout_still_needs_every_replica():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(2, rollout={"steps": [{"pause": {}}]}))
    cluster.settle()
    cluster.replicas.append("b")
    cluster.states["b", 2] = VersionState.LOADING
    cluster.decisions.append(decision("approve", 2, step=0))
    cluster.settle()
    assert cluster.committed == 1
    cluster.states.clear()
    cluster.settle()
    assert cluster.committed == 2


def test_a_committed_version_whose_breaker_opens_on_one_replica_is_rolled_back_and_quarantined():
    cluster = Cluster("a", "b").serves(model_version(1), model_version(2))
    cluster.broken.add("b")
    cluster.settle()
    assert roles(cluster) == (1, None, None)
    blocked = cluster.plan.models[MODEL].quarantine
    assert [(each.version, each.reason) for each in blocked] == [(2, Reason.ERROR_RATE_EXCEEDED)]
    assert cluster.model.verdicts[-1].outcome == "RolledBack"
    assert cluster.model.verdicts[-1].replica == "b"
    assert "0 of 0 since its start" in cluster.model.verdicts[-1].message
    assert "RolledBack" in cluster.events
    assert cluster.condition(2, "RolledBack") == ("True", "RolledBack")


def test_an_open_breaker_is_no_verdict_when_the_previous_version_is_gone_or_blocked():
    cluster = Cluster("a").serves(model_version(1))
    cluster.broken.add("a")
    cluster.settle()
    assert roles(cluster) == (1, None, None)
    assert cluster.plan.models[MODEL].quarantine == []


def test_an_open_breaker_under_another_plan_says_nothing_about_this_one():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    cluster.broken.add("a")
    stale = cluster.report("a")
    cluster.broken.clear()
    cluster.serves(model_version(3))
    assert roles(cluster) == (3, 2, None)
    cluster.report = lambda _name: stale
    cluster.settle()
    assert cluster.committed == 3


def test_the_way_back_is_not_given_up_before_a_replica_is_heard_that_could_prepare_the_next_version():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    cluster.silent.add("a")
    cluster.serves(model_version(3))
    assert roles(cluster) == (2, 1, None)
    assert cluster.condition(3, "Progressing") == ("True", "NoReplicas")
    assert "version 1 stays the way back" in cluster.status(3).message
    cluster.silent.clear()
    cluster.settle()
    assert roles(cluster) == (3, 2, None)


def test_a_way_back_that_is_none_does_not_hold_a_rollout_up():
    cluster = Cluster("a").serves(model_version(1))
    cluster.silent.add("a")
    cluster.serves(model_version(2))
    assert roles(cluster) == (1, None, 2)


MEMORY = failure(Reason.WONT_FIT)
ERRORS = failure(Reason.ERROR_RATE_EXCEEDED, Gate.ERROR_RATE)


def test_a_committed_version_that_took_all_memory_from_its_clients_requests_is_rolled_back_and_held():
    cluster = Cluster("a", "b").serves(model_version(1), model_version(2))
    cluster.breakers["b", 2] = MEMORY
    cluster.settle()
    assert roles(cluster) == (1, None, None)
    model = cluster.plan.models[MODEL]
    assert model.quarantine == [], "too little memory says nothing about its files"
    assert [(each.version, each.reason) for each in model.holds] == [(2, Reason.WONT_FIT)]
    assert (cluster.status(2).phase, cluster.condition(2, "Stalled")) == ("Held", ("True", "WontFit"))
    assert cluster.condition(2, "RolledBack") == ("True", "RolledBack")
    assert "clear version 2" in cluster.status(2).message
    cluster.breakers.clear()
    cluster.decisions.append(decision("clear", 2))
    cluster.settle()
    assert cluster.committed == 2


@pytest.mark.parametrize(("why", "held"), [(MEMORY, True), (ERRORS, False)], ids=["memory", "errors"])
def test_a_candidate_whose_traffic_a_replica_took_away_is_taken_back(why, held):
    cluster = Cluster("a", "b").serves(model_version(1))
    cluster.serves(model_version(2, rollout={"steps": [{"pause": {}}]}))
    assert roles(cluster) == (1, None, 2)
    cluster.breakers["b", 2] = why
    cluster.settle()
    assert roles(cluster) == (1, None, None)
    model = cluster.plan.models[MODEL]
    assert [[each.version for each in blocked] for blocked in (model.holds, model.quarantine)] == (
        [[2], []] if held else [[], [2]]
    )
    assert cluster.model.verdicts[-1].outcome == "Rejected"
    assert cluster.model.verdicts[-1].replica == "b"
    assert cluster.condition(2, "Stalled") == ("True", why.reason)


def test_a_breaker_of_an_earlier_attempt_says_nothing_about_this_one():
    cluster = Cluster("a").serves(model_version(1))
    cluster.breakers["a", 2] = MEMORY
    cluster.serves(model_version(2, rollout={"steps": [{"pause": {}}]}))
    stale = cluster.reports["a"]
    cluster.breakers.clear()
    cluster.decisions.append(decision("clear", 2))
    cluster.extra_reports = []
    report, cluster.report = cluster.report, lambda _name: stale
    cluster.once()
    assert roles(cluster) == (1, None, 2)
    cluster.once()
    assert roles(cluster) == (1, None, 2)
    cluster.report = report
    cluster.settle()
    assert roles(cluster) == (1, None, 2)
