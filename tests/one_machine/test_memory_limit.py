"""A replica in a control group with a memory limit: what doesn't fit isn't loaded, and the kernel needn't kill."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from windlass_contract.artifact import read_manifest
from windlass_contract.manifest import DataType, Signature
from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.record import ServerState
from windlass_testing.control_group import ControlGroup, control_group, why_not
from windlass_testing.load import Load, Request
from windlass_testing.models import affine, hungry, spec
from windlass_testing.one_machine import OneMachine, Replica, one_machine, wait_until

COLUMN = spec(DataType.FP32, [-1, 1])
X_TO_Y = {"serving_default": Signature(inputs={"x": COLUMN}, outputs={"y": COLUMN})}
MIB = 1024 * 1024
REQUESTS = [
    Request("/v1/models/m:predict", {"instances": [[1.0]]}, lambda body, _: "" if body == ANSWER else f"{body}"),
]
ANSWER = {"predictions": [[1.0]]}
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    """CI has to have control groups; elsewhere a machine without them says so."""
    if reason := why_not():
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    with control_group() as group:
        yield group


@pytest.fixture
def machine(tmp_path: Path, group: ControlGroup) -> Iterator[OneMachine]:
    with one_machine(tmp_path, replicas=0) as machine:
        machine.add_replica("replica-1", within=group.command)
        yield machine


def roll(machine: OneMachine, version: int) -> str:
    digest = read_manifest(machine.models / "m" / str(version)).digest
    return machine.apply(machine.document("m", version, digest))


def test_what_does_not_fit_is_not_loaded_says_what_to_do_and_loads_once_there_is_room(
    machine: OneMachine, group: ControlGroup
) -> None:
    affine(machine.models, "m", 1, 2, 0)
    machine.wait_for_phase(roll(machine, 1), "Serving")
    (replica,) = machine.replicas.values()
    group.limit(group.used + 500 * MIB)
    affine(machine.models, "m", 2, 3, 0, memory_bytes=1000 * MIB)
    requests = [Request("/v1/models/m:predict", {"instances": [[1.0]]})]
    with Load(replica.url, requests, rate=30) as load:
        status = machine.wait_for_phase(roll(machine, 2), "Stalled")
        stalled = machine.condition("m-2", "Stalled")
        assert stalled["reason"] == "WontFit", status
        assert "version 2 of model m needs 1200 MiB" in stalled["message"]
        assert f"control group {group.folder}" in stalled["message"]
        assert "mode Restart" in stalled["message"]
        assert machine.condition("m-2", "RolledBack").get("status") != "True", "no verdict"
        group.limit(group.used + 2000 * MIB)
        machine.wait_for_phase("m-2", "Serving")
    assert load.lost == []
    assert replica.predict("m", [[1.0]]).json() == {"predictions": [[3.0]]}
    assert group.oom_kills == 0


@pytest.mark.parametrize("at_load", [True, False], ids=["load", "warm-up"])
def test_a_candidate_that_takes_all_memory_is_ended_before_the_kernel_has_to_and_the_other_version_serves(
    machine: OneMachine, group: ControlGroup, at_load: bool
) -> None:
    affine(machine.models, "m", 1, 2, 0, signatures=X_TO_Y)
    machine.wait_for_phase(roll(machine, 1), "Serving")
    (replica,) = machine.replicas.values()
    group.limit(group.used + 1000 * MIB)
    hungry(machine.models, "m", 2, mib=4000, at_load=at_load)
    requests = [Request("/v1/models/m:predict", {"instances": [[1.0]]})]
    with Load(replica.url, requests, rate=20) as load:
        machine.wait_for_phase(roll(machine, 2), "Stalled")
        stalled = machine.condition("m-2", "Stalled")
    assert stalled["reason"] == "WontFit"
    assert ("while it loaded" if at_load else "while it warmed up") in stalled["message"]
    assert "its worker was ended" in stalled["message"]
    assert load.lost == []
    assert {answer.version for answer in load.answers} == {"1"}
    assert group.oom_kills == 0
    assert group.peak < group.limited_to, "the limit was never reached"


def test_a_version_that_takes_all_memory_at_its_hundredth_request_is_taken_back_and_no_client_sees_it(
    machine: OneMachine, group: ControlGroup
) -> None:
    affine(machine.models, "m", 1, 1, 0, signatures=X_TO_Y)
    machine.wait_for_phase(roll(machine, 1), "Serving")
    hungry(machine.models, "m", 2, mib=4000, at_load=False, after=100)
    machine.wait_for_phase(roll(machine, 2), "Serving")
    (replica,) = machine.replicas.values()
    group.limit(group.used + 1000 * MIB)
    with Load(replica.url, REQUESTS, rate=40) as load:
        status = machine.wait_for_phase("m-2", "Held")
        wait_until("version 1 is committed again", lambda: machine.status("m-1").get("phase") == "Serving")
        before = len(load.answers)
        wait_until("some more are answered", lambda: len(load.answers) > before + 40)
    assert (load.lost, load.wrong) == ([], [])
    assert {answer.version for answer in load.answers[:50]} == {"2"}
    assert {answer.version for answer in load.answers[-20:]} == {"1"}
    assert machine.condition("m-2", "Stalled")["reason"] == "WontFit", status
    assert "while it served, it took memory until" in status["message"]
    assert machine.condition("m-2", "RolledBack")["status"] == "True"
    assert group.oom_kills == 0
    assert group.peak < group.limited_to, "the limit was never reached"


def test_a_candidate_that_takes_all_memory_under_real_traffic_gets_none_any_more_and_no_client_sees_it(
    tmp_path: Path, group: ControlGroup
) -> None:
    machine = OneMachine(tmp_path)
    affine(machine.models, "m", 1, 1, 0, signatures=X_TO_Y)
    hungry(machine.models, "m", 2, mib=4000, at_load=False, after=50)
    versions = [
        PlannedVersion(version=number, digest=read_manifest(machine.models / "m" / str(number)).digest, weight=weight)
        for number, weight in ((1, 500), (2, 500))
    ]
    plan = ServingPlan.build(machine.server, 1, {"m": ModelPlan(committed=1, candidate=2, versions=versions)})
    file = tmp_path / "state.json"
    file.write_text(json.dumps(ServerState(server=machine.server, plan=plan).to_dict()))
    try:
        replica = machine.add_replica("replica-1", "--plan-file", str(file), managed=False, within=group.command)
        wait_until("it is ready", replica.ready, last_seen=replica.process.tail)
        wait_until("both serve", lambda: _serving(replica) == {"1": 0.5, "2": 0.5}, last_seen=replica.process.tail)
        group.limit(group.used + 1000 * MIB)
        with Load(replica.url, REQUESTS, rate=40) as load:
            wait_until("the breaker is open", lambda: _serving(replica) == {"1": 1.0}, last_seen=replica.process.tail)
            before = len(load.answers)
            wait_until("some more are answered", lambda: len(load.answers) > before + 40)
        assert (load.lost, load.wrong) == ([], [])
        assert {answer.version for answer in load.answers} == {"1", "2"}
        assert {answer.version for answer in load.answers[-20:]} == {"1"}
        health = replica.get("/health").json()
        assert health["status"] == "degraded"
        assert any("version 2 of model m gets no traffic" in reason for reason in health["reasons"]), health
        assert group.oom_kills == 0
        assert group.peak < group.limited_to, "the limit was never reached"
    finally:
        machine.stop()


def _serving(replica: Replica) -> dict[str, float]:
    """Version to its share of the traffic, above 0."""
    found = {}
    for line in httpx.get(f"{replica.metrics_url}/metrics", timeout=30).text.splitlines():
        match = re.match(r'windlass_version_traffic_ratio\{model="m",version="(\d)"\} (\S+)', line)
        if match and float(match[2]):
            found[match[1]] = float(match[2])
    return found
