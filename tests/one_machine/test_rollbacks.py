"""The way back to a resident version is short, and replicas take it together: each is asked at its own address.

A decision is written whole, by a rename, so unlike a ModelVersion's file it needn't settle before it is read.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from windlass_contract.artifact import read_manifest
from windlass_testing.evidence import measured
from windlass_testing.load import Answer, Load, Request
from windlass_testing.models import affine_tflite
from windlass_testing.one_machine import BIN, OneMachine, one_machine, wait_until

pytestmark = pytest.mark.evidence

RATE = 50
"""Each replica is asked every 20 ms."""
MODEL = "m"


def wrong(body: Any, version: str) -> str:
    """Version v answers v x."""
    found = body["predictions"][0][0]
    return "" if found == float(version) else f"version {version} answered {found}"


def undo(machine: OneMachine, name: str) -> float:
    """As a person does it; gives when the decision's file was written, on the monotonic clock."""
    before = set(machine.directory.glob("*.decision.yaml"))
    command = [str(BIN / "windlass"), "undo", name, "--directory", str(machine.directory)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (decision,) = set(machine.directory.glob("*.decision.yaml")) - before
    return time.monotonic() - (time.time() - decision.stat().st_mtime)


def change(answers: list[Answer], version: int, since: float) -> tuple[float, float]:
    """When the first answer of a version was there, and the last one of another, of those that were sent since."""
    later = [answer for answer in answers if answer.sent > since and not answer.lost]
    new = [answer.done for answer in later if answer.version == str(version)]
    old = [answer.done for answer in later if answer.version != str(version)]
    return min(new), max(old, default=since)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("replicas", "times"), [(1, 3), pytest.param(5, 10, marks=[pytest.mark.hardening])], ids=["one", "five"]
)
def test_undo_brings_the_resident_previous_version_back_within_a_second_on_all_replicas(
    tmp_path: Path, replicas: int, times: int
) -> None:
    back: list[float] = []
    apart: list[float] = []
    with one_machine(tmp_path, replicas) as machine, ExitStack() as stack:
        serve(machine, 1)
        wait_until("all are ready", lambda: all(replica.ready() for replica in machine.replicas.values()))
        asked = [Request(f"/v1/models/{MODEL}:predict", {"instances": [[1.0]]}, wrong)]
        loads = [
            stack.enter_context(Load(replica.url, asked, RATE, senders=1)) for replica in machine.replicas.values()
        ]
        for version in range(2, times + 2):
            began = time.monotonic()
            name = serve(machine, version)
            wait_until("all answer", lambda v=version: all(load.answers[-1].version == str(v) for load in loads))
            apart.append(spread(loads, version, began))
            decided = undo(machine, name)
            wait_until("it is undone", lambda: all(load.answers[-1].version == "1" for load in loads))
            machine.wait_for_phase(name, "Held")
            back.append(max(change(load.answers, 1, decided)[0] for load in loads) - decided)
            apart.append(spread(loads, 1, decided))
    for load in loads:
        assert load.lost == load.wrong == []
        assert load.steps_back() == []
    measured(
        "rollback",
        f"{times} undos on {replicas} replica{'s' * (replicas > 1)}, each asked every 20 ms: from the decision's file "
        "to the first answer of the previous version on the last of them",
        f"{sorted(back)[len(back) // 2] * 1000:.0f} ms in the median, {max(back) * 1000:.0f} ms at most",
        "make evidence",
    )
    if replicas > 1:
        measured(
            "rollback",
            f"{2 * times} commits and undos on {replicas} replicas, each asked every 20 ms: from the first answer of "
            "the new version anywhere to the last one of the old",
            f"{sorted(apart)[len(apart) // 2] * 1000:.0f} ms in the median, {max(apart) * 1000:.0f} ms at most",
            "make evidence",
        )
    assert max(back) < 1.0
    assert max(apart) < 1.0


def serve(machine: OneMachine, version: int) -> str:
    """Packs a version and rolls it out."""
    digest = read_manifest(affine_tflite(machine.models, MODEL, version, float(version), 0.0)).digest
    name = machine.apply(machine.document(MODEL, version, digest))
    machine.wait_for_phase(name, "Serving")
    return name


def spread(loads: list[Load], version: int, since: float) -> float:
    """For how long some replica answered with the old version while another had answered with the new one."""
    changes = [change(load.answers, version, since) for load in loads]
    return max(0.0, max(last for _, last in changes) - min(first for first, _ in changes))
