"""Operator and replicas are killed, started anew and doubled: rollouts end right, the committed version serves."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from windlass_contract.artifact import read_manifest
from windlass_testing.evidence import measured
from windlass_testing.load import Load
from windlass_testing.models import affine
from windlass_testing.one_machine import wait_until


def test_the_operator_killed_in_mid_rollout_goes_on_where_it_was(fresh_tensorflow_rig: Any) -> None:
    rig = fresh_tensorflow_rig
    digest = read_manifest(affine(rig.machine.models, rig.model, 2, 3, 0, load_seconds=3)).digest
    with Load(rig.replica.url, rig.requests(), rate=50) as load:
        rig.roll(2, digest=digest)
        rig.machine.wait_for_phase(rig.name(2), "Preparing")
        rig.machine.operator.stop(signal.SIGKILL)
        rig.machine.operator.start()
        rig.machine.wait_until_ready(rig.name(2))
    assert load.lost == []
    assert load.steps_back() == []
    assert rig.answer() == 3.0


def test_with_no_operator_in_reach_a_restarted_replica_comes_up_on_the_committed_version(fresh_rig: Any) -> None:
    rig = fresh_rig
    rig.serve(2)
    rig.machine.operator.stop(signal.SIGKILL)
    rig.replica.process.stop(signal.SIGKILL)
    rig.replica.process.start()
    wait_until("the replica is ready", rig.replica.ready, last_seen=rig.replica.process.tail)
    assert rig.answer() == 3.0


def test_a_replica_that_comes_later_starts_on_the_committed_version(fresh_rig: Any) -> None:
    rig = fresh_rig
    rig.serve(2)
    late = rig.machine.add_replica("late")
    wait_until("the late replica is ready", late.ready, last_seen=late.process.tail)
    answer = late.predict(rig.model, [[1.0]])
    assert answer.json() == {"predictions": [[3.0]]}
    assert answer.headers["X-Model-Version"] == "2"


def test_a_replica_without_state_of_its_own_starts_from_the_durable_plan(fresh_rig: Any) -> None:
    rig = fresh_rig
    rig.serve(2)
    rig.machine.operator.stop(signal.SIGKILL)
    plan = rig.machine.state / "servers" / f"{rig.machine.server}.json"
    alone = rig.machine.add_replica("alone", "--plan-file", str(plan))
    wait_until("it is ready", alone.ready, last_seen=alone.process.tail)
    assert alone.predict(rig.model, [[1.0]]).json() == {"predictions": [[3.0]]}


@pytest.mark.parametrize("lost", ["deleted", "older"])
def test_the_durable_object_deleted_or_restored_from_an_old_copy_is_rebuilt_from_the_replicas(
    fresh_rig: Any, lost: str
) -> None:
    rig = fresh_rig
    path = rig.machine.state / "servers" / f"{rig.machine.server}.json"
    old = path.read_bytes()
    rig.serve(2)
    epoch = int(rig.replica.predict(rig.model, [[1.0]]).headers["X-Plan-Epoch"])
    with Load(rig.replica.url, rig.requests(), rate=50) as load:
        rig.machine.operator.stop(signal.SIGTERM)
        path.unlink()
        if lost == "older":
            path.write_bytes(old)
        rig.machine.operator.start()
        rig.serve(3)
    assert load.lost == []
    assert load.steps_back() == []
    assert rig.answer() == 4.0
    assert int(rig.replica.predict(rig.model, [[1.0]]).headers["X-Plan-Epoch"]) > epoch
    assert rig.machine.status(rig.name(2))["phase"] in {"Previous", "Superseded"}


def test_a_second_operator_takes_over_when_the_first_is_killed(fresh_rig: Any) -> None:
    rig = fresh_rig
    second = rig.machine.new_operator("standby")
    second.start()
    try:
        rig.machine.operator.stop(signal.SIGKILL)
        with Load(rig.replica.url, rig.requests(), rate=50) as load:
            rig.serve(2)
        assert load.lost == []
        assert load.steps_back() == []
    finally:
        second.stop()


@pytest.mark.evidence
@pytest.mark.timeout(400)
def test_with_two_replicas_one_is_killed_in_mid_rollout_and_comes_back_on_the_committed_version(
    fresh_tensorflow_rig: Any,
) -> None:
    rig = fresh_tensorflow_rig
    second = rig.machine.add_replica("replica-2")
    wait_until("the second replica is ready", second.ready, last_seen=second.process.tail)
    digest = read_manifest(affine(rig.machine.models, rig.model, 2, 3, 0, load_seconds=3)).digest
    with Load(rig.replica.url, rig.requests(), rate=50) as load:
        rig.roll(2, digest=digest)
        rig.machine.wait_for_phase(rig.name(2), "Preparing")
        second.process.stop(signal.SIGKILL)
        second.process.start()
        rig.machine.wait_for_phase(rig.name(2), "Serving")
        wait_until("the second replica is ready", second.ready, last_seen=second.process.tail)
    assert load.lost == []
    assert load.steps_back() == []
    measured(
        "sigkill",
        "two replicas, one killed with SIGKILL in mid-rollout while the other takes constant load",
        f"{len(load.lost)} of {len(load.answers)} requests lost on the other; the rollout ended right on both",
        "make evidence",
    )
    wait_until(
        "it answers with version 2", lambda: second.predict(rig.model, [[1.0]]).headers["X-Model-Version"] == "2"
    )


def test_a_graceful_stop_under_load_answers_everything_that_was_admitted(fresh_rig: Any) -> None:
    rig = fresh_rig
    load = Load(rig.replica.url, rig.requests(), rate=80)
    with load:
        wait_until("load is on", lambda: len(load.answers) > 50)
        code = rig.replica.process.stop(signal.SIGTERM)
    assert code == 0, rig.replica.process.tail()
    refused = [answer for answer in load.lost if "ConnectionRefusedError" not in answer.error]
    assert refused == [], "a request that reached the replica is answered; later ones find nobody listening"
