"""New versions go live in a running replica under constant load: nothing lost, no step back."""

from __future__ import annotations

import re
from typing import Any

import pytest

from windlass_testing.evidence import measured
from windlass_testing.load import Load

pytestmark = pytest.mark.evidence

SWAPS = 20


def right(body: Any, version: str) -> str:
    """Version v answers (v + 1) x."""
    expected = float(version) + 1
    found = body["predictions"][0][0]
    return "" if found == expected else f"version {version} answered {found} instead of {expected}"


@pytest.mark.timeout(600)
def test_twenty_swaps_between_tensorflow_models_lose_nothing_and_never_step_back(rig: Any) -> None:
    first = rig.machine.status(rig.name(1))["digest"]
    digests = {1: first} | {version: rig.pack(version) for version in range(2, SWAPS + 2)}
    with Load(rig.replica.url, rig.requests(right), rate=60) as load:
        for version in range(2, SWAPS + 2):
            rig.roll(version, digest=digests[version])
            rig.machine.wait_for_phase(rig.name(version), "Serving")
    assert load.lost == []
    assert load.wrong == []
    assert load.steps_back() == []
    assert {answer.version for answer in load.answers} == {str(version) for version in range(1, SWAPS + 2)}
    assert len({answer.instance for answer in load.answers}) == 1, "it must not have been restarted"
    assert not re.search(r'"level": ?"error"', rig.replica.process.log.read_text())
    measured(
        "nothing-lost",
        f"{SWAPS} swaps between TensorFlow models in one replica under constant load",
        f"{len(load.lost)} of {len(load.answers)} requests lost, {len(load.steps_back())} steps back",
        "make evidence",
    )


def test_undo_brings_the_resident_previous_version_back_within_a_second(rig: Any) -> None:
    import subprocess
    import time

    from windlass_testing.one_machine import BIN

    rig.serve(2)
    with Load(rig.replica.url, rig.requests(right), rate=100) as load:
        began = time.monotonic()
        command = [str(BIN / "windlass"), "undo", rig.name(2), "--directory", str(rig.machine.directory)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        (decision,) = rig.machine.directory.glob(f"{rig.name(2)}.*.decision.yaml")
        decided = time.monotonic() - (time.time() - decision.stat().st_mtime)
        rig.machine.wait_for_phase(rig.name(1), "Serving")
    assert load.lost == []
    assert load.steps_back() == []
    assert rig.answer() == 2.0
    back = min(answer.sent for answer in load.answers if answer.version == "1" and answer.sent > began)
    assert back - decided < 1.0, "after the decision's file was there"
    status = rig.machine.status(rig.name(2))
    assert status["phase"] == "Held", status
    measured(
        "rollback",
        "one replica: from the decision's file being written to the previous version answering",
        f"{(back - decided) * 1000:.0f} ms",
        "make evidence",
    )
