"""Whatever happens to the operator, its objects and its way to the API server: the end state is the engine's."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest
from patience import wait_until
from windlass_lab.testing.kubernetes import Namespace

pytestmark = pytest.mark.lab

MOST_WRITES = 12
"""Of an operator for two versions that are applied at once, until both are told of; the Lease isn't counted."""
FEWEST_WRITES = 9
"""The same where the second version came before the first was begun with."""


def state_of(stage: Any) -> dict[str, Any]:
    """What has to be the same in the end, however it came about."""
    durable = stage.durable()
    model, record = durable["plan"]["models"]["m"], durable["record"]["models"]["m"]
    return {
        "committed": model["committed"],
        "previous": model.get("previous"),
        "quarantine": [each["digest"] for each in record.get("quarantine", [])],
        "rollout": record.get("rollout"),
    }


def serving(stage: Any, version: int, *replicas: Any) -> None:
    """A version is committed, and replicas serve it."""
    stage.apply(f"m-{version}", version)
    stage.await_committed(version)
    wait_until(lambda: all(each.committed[-1:] == [version] for each in replicas), stage.seen)


def test_the_one_that_stands_by_takes_over_within_fifteen_seconds_of_a_death(stage) -> None:
    first = stage.operator()
    replica = stage.replica()
    serving(stage, 1, replica)
    second = stage.operator()
    second.await_said("lease.waiting")
    assert second.health("/readyz")[0] == 503
    assert second.health("/livez")[0] == 200
    stage.apply("m-2", 2)
    died = time.monotonic()
    first.stop(signal.SIGKILL)
    wait_until(lambda: second.acting, stage.seen)
    assert time.monotonic() - died <= 15
    stage.await_committed(2)
    assert replica.epochs == sorted(set(replica.epochs))


def test_a_stopped_operator_gives_its_lease_up_at_once(stage) -> None:
    first, second = stage.operator(), None
    first.await_said("lease.taken")
    second = stage.operator()
    second.await_said("lease.waiting")
    began = time.monotonic()
    assert first.stop() == 0
    wait_until(lambda: second.acting, stage.seen)
    assert time.monotonic() - began < 8


def test_one_that_was_frozen_while_another_took_over_does_no_harm(stage) -> None:
    first = stage.operator()
    replica = stage.replica()
    serving(stage, 1, replica)
    second = stage.operator()
    second.await_said("lease.waiting")
    first.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: second.acting, stage.seen)
    stage.apply("m-2", 2)
    first.process.send_signal(signal.SIGCONT)
    stage.await_committed(2)
    wait_until(lambda: not first.acting, stage.seen)
    first.await_said("lease.lost")
    assert replica.committed == [None, 1, 2]
    assert replica.epochs == sorted(set(replica.epochs))


def test_two_that_act_at_once_do_no_harm(stage, kind_cluster, tmp_path) -> None:
    """Each has a Lease of its own, in another namespace, so that neither knows of the other."""
    elsewhere = Namespace(kind_cluster, f"{stage.namespace.name[:50]}-other")
    elsewhere.create()
    folder = tmp_path / "other"
    folder.mkdir()
    other = type(stage.account)(elsewhere, folder)
    other.serve(stage.namespace)
    try:
        first = stage.operator()
        one, two = stage.replica("r1"), stage.replica("r2")
        serving(stage, 1, one, two)
        one.follow(lambda: first.url)  # the Service of the first, and of the first alone
        stage.account, mine = other, stage.account
        # Without a CA of its own: two would take turns in the ConfigMap that replicas trust.
        second = stage.operator("--namespace", stage.namespace.name, "--control-tls", "off")
        stage.account = mine
        wait_until(lambda: second.acting, stage.seen)
        two.follow(lambda: second.url)
        stage.apply("m-2", 2)
        first.await_said("operator.acting")
        # Each hears one replica of two, and says so; nothing is committed that not all have prepared.
        wait_until(lambda: stage.condition("m-2", "Progressing").get("reason") == "ReplicaUnreachable", stage.seen)
        assert stage.committed() == 1
        second.stop(signal.SIGKILL)
        two.follow(stage.url)
        stage.await_committed(2)
        stage.await_phase("m-2", "Serving")
        for replica in (one, two):
            wait_until(lambda: replica.committed[-1] == 2, stage.seen)  # noqa: B023
            assert replica.committed == [None, 1, 2]
            assert replica.epochs == sorted(set(replica.epochs))
    finally:
        other.close()
        elsewhere.delete()


@pytest.mark.parametrize("damage", ["deleted", "edited", "put back from an old copy", "garbage", "without labels"])
def test_a_plan_that_is_tampered_with_is_healed_from_what_replicas_follow(stage, damage: str) -> None:
    stage.operator()
    replica = stage.replica()
    serving(stage, 1, replica)
    old = stage.namespace.get("configmap", "cats-windlass-plan")
    serving(stage, 2, replica)
    name = "cats-windlass-plan"
    if damage == "deleted":
        stage.namespace.kubectl("delete", "configmap", name)
    elif damage == "without labels":
        stage.namespace.kubectl("label", "configmap", name, "windlass.dev/server-", "app.kubernetes.io/managed-by-")
    else:
        text = {"put back from an old copy": old["data"]["state.json"], "garbage": "{"}.get(damage)
        if text is None:
            state = stage.durable()
            state["plan"]["models"]["m"]["committed"] = 1
            text = json.dumps(state)
        patch = json.dumps({"data": {"state.json": text}})
        stage.namespace.kubectl("patch", "configmap", name, "--type=merge", f"--patch={patch}")

    def healed() -> bool:
        value = {} if not stage.durable_readable() else stage.durable()
        plan = value.get("plan") or {}
        labels = stage.namespace.get("configmap", name)["metadata"].get("labels", {}) if value else {}
        model = plan.get("models", {}).get("m") or {}
        return (
            model.get("committed") == 2
            and replica.plan.digest == plan.get("digest")
            and "windlass.dev/server" in labels
        )

    wait_until(healed, stage.seen)
    assert replica.committed == [None, 1, 2]
    assert replica.epochs == sorted(set(replica.epochs))
    serving(stage, 3, replica)


def test_statuses_that_are_wiped_are_written_anew(stage) -> None:
    stage.operator()
    serving(stage, 1, stage.replica())
    stage.await_phase("m-1", "Serving")
    before = stage.status("m-1")
    stage.namespace.kubectl("patch", "mv", "m-1", "--subresource=status", "--type=merge", '--patch={"status": null}')
    stage.await_phase("m-1", "Serving")
    after = stage.status("m-1")
    assert {name: after[name] for name in ("phase", "digest", "replicas")} == {
        name: before[name] for name in ("phase", "digest", "replicas")
    }


def test_an_api_server_out_of_reach_stops_no_replica_and_the_rollout_goes_on_afterwards(stage) -> None:
    line = stage.cut_line()
    operator = stage.operator()
    replica = stage.replica()
    serving(stage, 1, replica)
    line.cut()
    operator.await_said("lease.lost")
    assert operator.health("/readyz")[0] == 503
    assert operator.health("/livez")[0] == 200
    stage.apply("m-2", 2)
    assert replica.committed == [None, 1]
    line.mend()
    stage.await_committed(2)
    stage.await_phase("m-2", "Serving")
    assert operator.process.poll() is None
    assert replica.committed == [None, 1, 2]


def test_a_pod_that_is_deleted_is_waited_for_no_longer(stage) -> None:
    stage.operator()
    one, two = stage.replica("r1"), stage.replica("r2")
    serving(stage, 1, one, two)
    two.stop()
    stage.apply("m-2", 2)
    wait_until(lambda: stage.condition("m-2", "Progressing").get("reason") == "ReplicaUnreachable", stage.seen)
    assert stage.committed() == 1
    stage.namespace.kubectl("delete", "pod", "r2", "--grace-period=0", "--force")
    stage.await_committed(2)


def test_a_cut_off_operator_and_a_newer_version_meanwhile_end_as_without(stage) -> None:
    stage.operator().await_said("operator.acting")
    replica = stage.replica()
    serving(stage, 1, replica)
    replica.failures[2] = {"gate": "Load", "reason": "LoadFailed", "message": "no"}
    stage.apply("m-2", 2)
    stage.await_phase("m-2", "Quarantined")
    stage.operators[0].stop(signal.SIGKILL)
    stage.apply("m-3", 3)
    stage.namespace.kubectl("delete", "mv", "m-1")
    stage.operator()
    stage.await_committed(3)
    assert state_of(stage)["quarantine"]
    stage.await_phase("m-2", "Quarantined")


def _killed_at(stage: Any, number: int, when: str) -> bool:
    """Two versions, and an operator that dies at one of its writes for them; the next one has to end what it began.
    Whether it did die: it may have had fewer to make.
    """
    replica = stage.replica()
    dying = stage.dying_operator(number, when)
    stage.apply("m-1", 1)
    stage.apply("m-2", 2)
    killed = wait_until(lambda: dying.process.poll() is not None or (_ended(stage) and "done"), stage.seen) != "done"
    dying.stop(signal.SIGKILL)
    stage.operator()
    stage.await_committed(2)
    stage.await_phase("m-2", "Serving")
    wait_until(lambda: replica.committed[-1:] == [2], stage.seen)
    assert replica.epochs == sorted(set(replica.epochs))
    assert state_of(stage) | {"previous": None} == {
        "committed": 2,
        "previous": None,
        "quarantine": [],
        "rollout": None,
    }
    return killed


def _ended(stage: Any) -> bool:
    return (
        stage.status("m-2").get("phase") == "Serving"
        and stage.status("m-1").get("phase") in {"Previous", "Superseded"}
        and ("m-2", "Committed") in stage.events()
    )


@pytest.mark.parametrize(("number", "when"), [(3, "before"), (3, "after"), (5, "after")])
def test_an_operator_killed_at_a_write_leaves_the_rollout_to_the_next(stage, number: int, when: str) -> None:
    assert _killed_at(stage, number, when)


@pytest.mark.soak
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, MOST_WRITES + 1))
def test_an_operator_killed_at_any_write_leaves_the_rollout_to_the_next(stage, number: int, when: str) -> None:
    assert _killed_at(stage, number, when) or number > FEWEST_WRITES


@pytest.mark.soak
def test_the_writes_that_it_is_killed_at_are_all_there_are(stage) -> None:
    assert not _killed_at(stage, MOST_WRITES + 1, "before")
