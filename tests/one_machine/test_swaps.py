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
