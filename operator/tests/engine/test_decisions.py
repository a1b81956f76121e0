"""People's decisions: taken once, by id, and only while digest and step are what they name."""

from __future__ import annotations

import pytest
from engine_builders import MODEL, Cluster, content, decision, digest, failure, model_version

from windlass_contract.failures import Reason
from windlass_contract.report import VersionState

PAUSES = {"steps": [{"pause": {}}, {"pause": {}}]}


def outcome_of(cluster: Cluster, version: int) -> list[str]:
    return [each.outcome for each in cluster.status(version).decisions]


def test_undo_goes_back_to_the_resident_version_in_one_write_and_holds_the_digest():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    cluster.decisions.append(decision("undo", 2))
    plan = cluster.once().plan.models[MODEL]
    assert (plan.committed, plan.previous, plan.candidate) == (1, None, None)
    assert [each.digest for each in plan.holds] == [digest(2)]
    cluster.settle()
    assert cluster.committed == 1
    assert cluster.status(2).phase == "Held"
    assert cluster.condition(2, "RolledBack") == ("True", "Undone")
    assert outcome_of(cluster, 2) == ["taken"]


def test_undo_of_a_running_rollout_ends_it():
    cluster = Cluster("a").serves(model_version(1))
    cluster.states["a", 2] = VersionState.LOADING
    cluster.serves(model_version(2))
    cluster.decisions.append(decision("undo", 2))
    cluster.settle()
    assert cluster.model.rollout is None
    assert cluster.committed == 1


def test_undo_without_a_resident_version_prepares_the_next_one_first():
    cluster = Cluster("a").serves(model_version(1), model_version(2, rollout={"keepPrevious": "0s"}))
    cluster.decisions.append(decision("undo", 2))
    cluster.once()
    assert cluster.committed == 2
    cluster.settle()
    assert cluster.committed == 1


def test_undo_of_the_only_version_leaves_it_serving_and_says_so():
    cluster = Cluster("a").serves(model_version(1))
    cluster.decisions.append(decision("undo", 1))
    cluster.settle()
    assert cluster.committed == 1
    assert "no other version" in cluster.status(1).message


def test_undo_of_a_version_that_has_not_come_yet_holds_it_when_it_comes():
    cluster = Cluster("a").serves(model_version(1))
    cluster.decisions.append(decision("undo", 2))
    cluster.serves(model_version(2))
    assert cluster.committed == 1


def test_undoing_both_resident_versions_goes_back_to_neither():
    cluster = Cluster("a").serves(model_version(1), model_version(2), model_version(3))
    cluster.decisions += [decision("undo", 3), decision("undo", 2)]
    cluster.settle()
    assert cluster.committed == 1


def test_undo_of_other_files_with_the_same_number_does_not_touch_what_serves():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    cluster.decisions.append(decision("undo", 2, variant=1))
    cluster.settle()
    assert cluster.committed == 2


def test_clear_lifts_a_hold_and_the_version_is_rolled_out_again():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    cluster.decisions.append(decision("undo", 2))
    cluster.settle()
    cluster.decisions.append(decision("clear", 2))
    cluster.settle()
    assert cluster.committed == 2
    assert cluster.model.holds == []


def test_clear_lifts_a_quarantine_for_all_that_have_the_same_files():
    cluster = Cluster("a").serves(model_version(1))
    cluster.failures["a", 2] = failure(Reason.LOAD_FAILED)
    cluster.contents[3] = content(2)
    cluster.serves(model_version(2), model_version(3))
    assert len(cluster.model.quarantine) == 2
    cluster.failures.clear()
    cluster.decisions.append(decision("clear", 3))
    cluster.settle()
    assert cluster.model.quarantine == []
    assert cluster.committed == 3


def test_a_cleared_version_is_not_condemned_by_what_was_said_before():
    cluster = Cluster("a").serves(model_version(1))
    cluster.failures["a", 2] = failure(Reason.LOAD_FAILED)
    cluster.model_versions.append(model_version(2))
    cluster.once()
    cluster.extra_reports = [type(cluster.report("a"))(cluster.report("a").report, 30.0)]
    cluster.settle()
    cluster.failures.clear()
    cluster.decisions.append(decision("clear", 2))
    cluster.settle()
    assert cluster.committed == 2


def test_each_step_needs_its_own_approval():
    cluster = Cluster("a").serves(model_version(1))
    cluster.serves(model_version(2, rollout=PAUSES))
    cluster.decisions.append(decision("approve", 2, step=0))
    cluster.settle()
    assert cluster.model.rollout.step == 1
    assert cluster.committed == 1
    cluster.decisions.append(decision("approve", 2, step=1, id="second"))
    cluster.settle()
    assert cluster.committed == 2


def test_an_approval_of_a_later_step_waits_for_it():
    cluster = Cluster("a").serves(model_version(1))
    cluster.serves(model_version(2, rollout=PAUSES))
    cluster.decisions.append(decision("approve", 2, step=1, id="early"))
    cluster.settle()
    assert cluster.model.rollout.step == 0
    assert outcome_of(cluster, 2) == ["waits: it is about step 2, the rollout is at step 1"]
    cluster.decisions.append(decision("approve", 2, step=0))
    cluster.settle()
    assert cluster.committed == 2


def test_an_approval_is_not_taken_again_by_the_next_rollout_of_the_same_version():
    pause = {"steps": [{"pause": {}}]}
    cluster = Cluster("a").serves(model_version(1))
    cluster.serves(model_version(2, rollout=pause))
    cluster.decisions.append(decision("approve", 2, step=0))
    cluster.settle()
    cluster.decisions += [decision("undo", 2)]
    cluster.settle()
    cluster.decisions += [decision("clear", 2)]
    cluster.settle()
    assert cluster.committed == 1
    assert cluster.status(2).phase == "Paused"


def test_a_late_approval_of_what_is_committed_is_taken_to_no_effect():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    cluster.decisions.append(decision("approve", 2, step=0))
    cluster.settle()
    assert outcome_of(cluster, 2) == ["taken"]
    assert cluster.committed == 2


def test_pause_stops_a_rollout_and_resume_lets_it_go_on():
    cluster = Cluster("a").serves(model_version(1))
    cluster.states["a", 2] = VersionState.LOADING
    cluster.serves(model_version(2))
    cluster.decisions.append(decision("pause", 2))
    cluster.settle()
    cluster.states.clear()
    cluster.settle()
    assert cluster.committed == 1
    assert cluster.plan.models[MODEL].paused
    assert cluster.status(2).phase == "Paused"
    cluster.decisions.append(decision("resume", 2))
    cluster.settle()
    assert cluster.committed == 2


@pytest.mark.parametrize("first", ["decisions", "version"])
def test_a_pause_that_was_taken_back_pauses_nothing_whether_version_or_decisions_came_first(first):
    cluster = Cluster("a").serves(model_version(1))
    decided, wanted = [decision("pause", 2), decision("resume", 2)], model_version(2)
    if first == "decisions":
        cluster.decisions += decided
        cluster.settle()
        cluster.model_versions.append(wanted)
    else:
        cluster.model_versions.append(wanted)
        cluster.decisions += decided
    cluster.settle()
    assert cluster.committed == 2
    assert len(cluster.model.decisions) == 2


def test_a_decision_about_another_digest_waits_and_says_what_for():
    cluster = Cluster("a").serves(model_version(1))
    cluster.serves(model_version(2, rollout=PAUSES))
    cluster.decisions.append(decision("approve", 2, variant=1, step=0))
    cluster.settle()
    assert cluster.model.rollout.step == 0
    assert cluster.model.decisions == []


def test_ids_that_can_still_be_seen_are_never_forgotten():
    cluster = Cluster("a").serves(model_version(1))
    cluster.decisions += [decision("resume", 1, id=f"d-{number}") for number in range(300)]
    cluster.settle()
    assert len(cluster.model.decisions) == 300
    seen = cluster.decisions[:10]
    cluster.decisions[:] = seen
    cluster.settle()
    assert {each.id for each in seen} <= set(cluster.model.decisions)
    assert len(cluster.model.decisions) == 210
