"""What can go wrong around a rollout besides the operator's own death: the end state is the engine's."""

from __future__ import annotations

import json
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from patience import wait_until

pytestmark = pytest.mark.lab


def serving(stage: Any, version: int, *replicas: Any) -> None:
    """A version is committed, and replicas serve it."""
    stage.apply(f"m-{version}", version)
    stage.await_committed(version)
    wait_until(lambda: all(each.committed[-1:] == [version] for each in replicas), stage.seen)


def candidate(stage: Any) -> int | None:
    """The version that is being prepared."""
    return ((stage.durable().get("plan") or {}).get("models", {}).get("m") or {}).get("candidate")


@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
def test_of_two_that_are_applied_at_once_the_higher_is_committed_in_either_order(stage, order) -> None:
    stage.operator()
    replica = stage.replica()
    serving(stage, 1, replica)
    values = [stage.model_version(f"m-{version}", version) for version in order]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": values})
    stage.namespace.kubectl("apply", "-f", "-", given=text)
    stage.await_committed(3)
    stage.await_phase("m-3", "Serving")
    wait_until(lambda: stage.status("m-2").get("phase") in {"Superseded", "Previous"}, stage.seen)
    wait_until(lambda: replica.committed[-1] == 3, stage.seen)
    assert [each for each in replica.committed if each != 2] == [None, 1, 3]
    assert replica.epochs == sorted(set(replica.epochs))


def test_a_version_that_is_deleted_while_the_next_prepares_serves_until_that_is_committed(stage) -> None:
    operator = stage.operator()
    replica = stage.replica()
    serving(stage, 9, replica)
    replica.holding_back.add(10)
    stage.apply("m-10", 10)
    wait_until(lambda: candidate(stage) == 10, stage.seen)
    stage.namespace.kubectl("delete", "modelversion", "m-9", "--timeout=30s")
    orphan = "windlass_operator_serving_without_model_version"
    wait_until(lambda: operator.metric(orphan) == 1, stage.seen)
    assert (stage.committed(), candidate(stage)) == (9, 10)
    replica.holding_back.clear()
    stage.await_committed(10)
    stage.await_phase("m-10", "Serving")
    wait_until(lambda: operator.metric(orphan) == 0, stage.seen)
    assert replica.committed == [None, 9, 10]


def test_a_version_that_is_deleted_while_it_prepares_is_withdrawn(stage) -> None:
    stage.operator()
    replica = stage.replica()
    serving(stage, 9, replica)
    replica.holding_back.add(10)
    stage.apply("m-10", 10)
    wait_until(lambda: candidate(stage) == 10, stage.seen)
    stage.namespace.kubectl("delete", "modelversion", "m-10", "--timeout=30s")
    wait_until(lambda: candidate(stage) is None, stage.seen)
    stage.await_phase("m-9", "Serving")
    assert replica.committed == [None, 9]


def test_a_pod_that_is_cut_off_holds_up_going_forward_and_not_going_back(stage) -> None:
    operator = stage.operator()
    one, two = stage.replica("r1"), stage.replica("r2")
    serving(stage, 1, one, two)
    serving(stage, 2, one, two)
    two.follow(lambda: None)
    stage.apply("m-3", 3, rollout={"keepPrevious": "10m"})
    wait_until(lambda: stage.condition("m-3", "Progressing").get("reason") == "ReplicaUnreachable", stage.seen)
    assert stage.committed() == 2
    two.follow(stage.url)
    stage.await_committed(3)
    wait_until(lambda: two.committed[-1] == 3, stage.seen)
    two.follow(lambda: None)
    # Its last poll has ended, too, when it counts as silent.
    wait_until(lambda: operator.metric("windlass_operator_subscribed_replicas") == 1, stage.seen)
    stage.decide("m-3", "undo", 3)
    stage.await_committed(2)
    wait_until(lambda: one.committed[-1] == 2, stage.seen)
    assert two.committed[-1] == 3, "it can't have heard of that"
    two.follow(stage.url)
    wait_until(lambda: two.committed[-1] == 2, stage.seen)
    for replica in (one, two):
        assert replica.committed == [None, 1, 2, 3, 2]
        assert replica.epochs == sorted(set(replica.epochs))


@pytest.mark.parametrize("minutes", [10, -10])
def test_an_operator_whose_clock_is_off_decides_the_same_and_is_followed_by_another(stage, minutes: int) -> None:
    wrong = stage.shifted_operator(minutes * 60)
    replica = stage.replica()
    serving(stage, 1, replica)
    stage.await_phase("m-1", "Serving")
    said = datetime.fromisoformat(stage.condition("m-1", "Ready")["lastTransitionTime"])
    assert abs(said - datetime.now(UTC) - timedelta(minutes=minutes)) < timedelta(minutes=3), "its clock isn't off"
    replica.failures[2] = {"gate": "Load", "reason": "LoadFailed", "message": "no"}
    stage.apply("m-2", 2)
    stage.await_phase("m-2", "Quarantined")
    right = stage.operator()
    right.await_said("lease.waiting")
    died = time.monotonic()
    wrong.stop(signal.SIGKILL)
    wait_until(lambda: right.acting, stage.seen)
    assert time.monotonic() - died <= 15
    serving(stage, 3, replica)
    stage.await_phase("m-2", "Quarantined")
    assert replica.committed == [None, 1, 3]
    assert replica.epochs == sorted(set(replica.epochs))
