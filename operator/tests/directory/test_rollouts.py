"""Rollouts with the real command, real files and replicas that speak the real protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

ACCEPTANCE_FAILED = {
    "gate": "Acceptance",
    "reason": "AcceptanceFailed",
    "message": "score 0.100, wanted 1.000: cat-1 expected cat, got dog",
}


def test_a_version_is_committed_and_the_next_takes_its_place(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    operator = stage.operator()
    replica = stage.replica()
    workspace.await_committed(1)
    workspace.await_phase("m-1", "Serving")
    workspace.write("m-2", 2)
    workspace.await_committed(2)
    workspace.await_phase("m-2", "Serving")
    workspace.await_phase("m-1", "Previous")
    assert workspace.status("m-2")["observedGeneration"] == 1
    until(lambda: workspace.condition("m-2", "Ready")["status"] == "True", lambda: workspace.status("m-2"))
    assert workspace.condition("m-2", "Ready")["lastTransitionTime"].endswith("Z")
    until(lambda: replica.plan and replica.plan.epoch == workspace.durable()["plan"]["epoch"])
    assert replica.epochs == sorted(set(replica.epochs))
    assert [each for each in replica.committed if each] == [1, 2]
    text = operator.health("/metrics")[1]
    assert 'windlass_operator_subscribed_replicas{server="cats"} 1.0' in text
    assert 'windlass_operator_rollouts_total{model="m",outcome="Committed",server="cats"} 2.0' in text
    assert "windlass_operator_acting 1.0" in text
    assert operator.health("/readyz")[0] == 200
    assert operator.health("/livez")[0] == 200
    assert operator.stop() == 0


def test_a_version_that_fails_its_samples_is_refused_and_says_why(stage: Any, workspace: Any, until: Any) -> None:
    samples = json.dumps({"samples": [{"name": "cat-1", "inputs": {"x": [1]}, "expect": {"classIndex": 0}}]})
    (workspace.folder / "accept.json").write_text(samples)
    workspace.write("m-1", 1)
    stage.operator()
    replica = stage.replica()
    replica.failures[2] = ACCEPTANCE_FAILED
    workspace.await_committed(1)
    workspace.write("m-2", 2, verify={"samples": {"file": "accept.json"}})
    workspace.await_phase("m-2", "Quarantined")
    assert workspace.committed() == 1
    assert "cat-1 expected cat, got dog" in json.dumps(workspace.status("m-2"))
    assert samples.encode() in replica.samples.values()
    assert 2 not in replica.committed
    workspace.decide("m-2", "clear", 2)
    replica.failures.clear()
    workspace.await_committed(2)


def test_samples_that_are_missing_hold_the_rollout_until_they_are_there(stage: Any, workspace: Any) -> None:
    workspace.write("m-1", 1, verify={"samples": {"file": "accept.json"}})
    stage.operator()
    stage.replica()
    workspace.await_phase("m-1", "Stalled")
    assert "accept.json" in json.dumps(workspace.status("m-1"))
    (workspace.folder / "accept.json").write_text(
        json.dumps({"samples": [{"inputs": {"x": [1]}, "expect": {"classIndex": 0}}]})
    )
    workspace.await_committed(1)


def test_a_typing_error_freezes_the_server_and_heals_by_itself(stage: Any, workspace: Any, until: Any) -> None:
    first = workspace.write("m-1", 1)
    operator = stage.operator()
    replica = stage.replica()
    workspace.await_committed(1)
    good = first.read_text()
    workspace.replace(first, good.replace("version: 1", "version: [1"))
    until(lambda: workspace.condition("m-1", "Stalled").get("reason") == "FileInvalid", lambda: workspace.status("m-1"))
    message = workspace.condition("m-1", "Stalled")["message"]
    assert message.startswith("m-1.yaml: it is not YAML")
    workspace.write("m-2", 2)
    operator.await_said("status.written", model_version="m-2")
    until(lambda: 'windlass_operator_server_frozen{server="cats"} 1.0' in operator.health("/metrics")[1])
    assert (workspace.committed(), workspace.model().get("candidate")) == (1, None)
    workspace.replace(first, good)
    workspace.await_committed(2)
    until(lambda: workspace.condition("m-1", "Stalled").get("status") != "True")
    until(lambda: replica.committed == [None, 1, 2])
    reasons = [event["reason"] for event in workspace.events()]
    assert reasons.count("FileInvalid") == 1


def test_a_file_that_never_named_a_server_freezes_them_all(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    operator = stage.operator()
    stage.replica()
    workspace.await_committed(1)
    broken = workspace.folder / "new.yaml"
    workspace.replace(broken, "spec: {server: do")
    operator.await_said("file.refused", file="new.yaml")
    workspace.write("m-2", 2)
    operator.await_said("status.written", model_version="m-2")
    assert workspace.model().get("candidate") is None
    assert "new.yaml" in workspace.condition("new", "Stalled")["message"]
    broken.unlink()
    workspace.await_committed(2)
    until(lambda: workspace.status("new") == {})


def test_a_typing_error_is_remembered_over_a_restart(stage: Any, workspace: Any, until: Any) -> None:
    first = workspace.write("m-1", 1)
    workspace.write("other", 1, server="dogs")
    operator = stage.operator()
    stage.replica()
    workspace.await_committed(1)
    assert operator.stop() == 0
    workspace.replace(first, "server: [")
    operator = stage.operator()
    operator.await_said("file.refused", file="m-1.yaml")
    until(lambda: 'windlass_operator_server_frozen{server="cats"} 1.0' in operator.health("/metrics")[1])
    # Each server has its own worker: this one may not have looked yet.
    until(lambda: 'windlass_operator_server_frozen{server="dogs"}' in operator.health("/metrics")[1])
    assert 'windlass_operator_server_frozen{server="dogs"} 0.0' in operator.health("/metrics")[1]
    assert workspace.committed() == 1


def test_what_identifies_a_version_can_not_be_edited(stage: Any, workspace: Any, until: Any) -> None:
    first = workspace.write("m-1", 1)
    stage.operator()
    stage.replica()
    workspace.await_committed(1)
    before = workspace.durable()["plan"]
    good = first.read_text()
    workspace.replace(first, good.replace("version: 1", "version: 7"))
    until(lambda: workspace.condition("m-1", "Stalled").get("reason") == "Conflict", lambda: workspace.status("m-1"))
    condition = workspace.condition("m-1", "Stalled")
    assert "spec.version (1 → 7)" in condition["message"]
    assert "new spec.version" in condition["message"]
    assert workspace.durable()["plan"] == before
    workspace.replace(first, good)
    until(lambda: workspace.condition("m-1", "Stalled").get("status") != "True")


def test_of_two_files_with_one_name_the_first_goes_on(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    stage.operator()
    stage.replica()
    workspace.await_committed(1)
    twin = workspace.write("m-1", 2, file="twin.yaml")
    until(lambda: "twin.yaml" in workspace.condition("m-1", "Stalled").get("message", ""))
    assert workspace.committed() == 1
    twin.unlink()
    until(lambda: workspace.condition("m-1", "Stalled").get("status") != "True")
    workspace.write("m-2", 2)
    workspace.await_committed(2)


def test_two_files_that_name_one_version_with_different_digests_start_nothing(
    stage: Any, workspace: Any, digest_of: Callable[[str], str]
) -> None:
    workspace.write("m-1", 1)
    operator = stage.operator()
    stage.replica()
    workspace.await_committed(1)
    assert operator.stop() == 0
    workspace.write("m-2", 2, artifact={"uri": "volume://m", "digest": digest_of("one")})
    workspace.write("m-2-too", 2, artifact={"uri": "volume://m", "digest": digest_of("another")})
    stage.operator()
    workspace.await_phase("m-2-too", "Conflict")
    workspace.await_phase("m-2", "Conflict")
    assert workspace.committed() == 1
    (workspace.folder / "m-2.yaml").unlink()
    workspace.await_committed(2)


def test_what_serves_goes_on_serving_when_its_file_is_deleted(stage: Any, workspace: Any, until: Any) -> None:
    first = workspace.write("m-1", 1)
    operator = stage.operator()
    stage.replica()
    workspace.await_committed(1)
    first.unlink()
    until(lambda: workspace.status("m-1") == {})
    metric = 'windlass_operator_serving_without_model_version{model="m",server="cats"} 1.0'
    until(lambda: metric in operator.health("/metrics")[1])
    assert workspace.committed() == 1
    assert operator.stop() == 0
    operator = stage.operator()
    until(lambda: metric in operator.health("/metrics")[1])
    assert workspace.committed() == 1
    assert workspace.model()["versions"][0]["weight"] == 1000


def test_a_model_version_renamed_in_mid_rollout_goes_on(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    stage.operator()
    replica = stage.replica()
    workspace.await_committed(1)
    replica.holding_back.add(2)
    second = workspace.write("m-2", 2)
    until(lambda: workspace.model().get("candidate") == 2)
    workspace.replace(second, second.read_text().replace("name: m-2", "name: renamed"))
    until(lambda: workspace.status("renamed") and not workspace.status("m-2"))
    replica.holding_back.clear()
    workspace.await_committed(2)
    workspace.await_phase("renamed", "Serving")
    verdicts = workspace.durable()["record"]["models"]["m"]["verdicts"]
    assert [verdict["outcome"] for verdict in verdicts] == ["Committed", "Committed"]


def test_a_candidate_whose_file_is_deleted_is_withdrawn(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    stage.operator()
    replica = stage.replica()
    workspace.await_committed(1)
    replica.holding_back.add(2)
    second = workspace.write("m-2", 2)
    until(lambda: workspace.model().get("candidate") == 2)
    second.unlink()
    until(lambda: workspace.model().get("candidate") is None)
    assert workspace.committed() == 1


def test_retiring_the_last_version_stops_serving(stage: Any, workspace: Any, until: Any) -> None:
    first = workspace.write("m-1", 1)
    stage.operator()
    stage.replica()
    workspace.await_committed(1)
    workspace.replace(first, first.read_text().replace("spec:", "spec:\n  state: Retired"))
    workspace.await_phase("m-1", "Retired")
    assert workspace.committed() is None
    until(lambda: workspace.status("m-1")["observedGeneration"] == 2, lambda: workspace.status("m-1"))


def test_decisions_are_taken_from_files_once(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    operator = stage.operator()
    stage.replica()
    workspace.await_committed(1)
    workspace.write("m-2", 2)
    workspace.await_committed(2)
    workspace.decide("m-2", "undo", 2, by="ada", reason="looks wrong")
    workspace.await_committed(1)
    workspace.await_phase("m-2", "Held")
    assert operator.stop() == 0
    operator = stage.operator()
    workspace.decide("m-2", "clear", 2, number=2)
    workspace.await_committed(2)
    assert workspace.durable()["record"]["models"]["m"]["decisions"] == ["d1", "d2"]


def test_a_bad_decision_is_named_and_changes_nothing(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    operator = stage.operator()
    stage.replica()
    workspace.await_committed(1)
    workspace.replace(workspace.folder / "m-1.d9.decision.yaml", "kind: Decision\nspec: {action: undu}")
    said = operator.await_said("file.refused", file="m-1.d9.decision.yaml")
    assert said["reason"] == "DecisionInvalid"
    assert "spec.action" in said["message"]
    workspace.write("m-2", 2)
    workspace.await_committed(2)


def test_a_first_version_that_fails_leaves_the_model_unserved_and_says_so(stage: Any, workspace: Any) -> None:
    workspace.write("m-1", 1)
    stage.operator()
    stage.replica().failures[1] = ACCEPTANCE_FAILED
    workspace.await_phase("m-1", "Quarantined")
    assert workspace.committed() is None


@pytest.mark.parametrize("named", [False, True])
def test_a_server_without_model_versions_is_told_so_if_it_is_named(
    stage: Any, workspace: Any, until: Any, named: bool
) -> None:
    operator = stage.operator(*(["--server", "cats"] if named else []))
    until(lambda: operator.health("/readyz")[0] == 200)
    if named:
        replica = stage.replica()
        until(lambda: replica.no_plan_told)
    else:
        assert not (workspace.state / "tokens" / "cats").exists()
