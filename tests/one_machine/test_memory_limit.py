"""A replica in a control group with a memory limit: what doesn't fit isn't loaded, and the kernel needn't kill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from windlass_contract.artifact import read_manifest
from windlass_contract.manifest import DataType, Signature
from windlass_testing.control_group import ControlGroup, control_group, why_not
from windlass_testing.load import Load, Request
from windlass_testing.models import affine, hungry, spec
from windlass_testing.one_machine import OneMachine, one_machine

COLUMN = spec(DataType.FP32, [-1, 1])
X_TO_Y = {"serving_default": Signature(inputs={"x": COLUMN}, outputs={"y": COLUMN})}
MIB = 1024 * 1024
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
