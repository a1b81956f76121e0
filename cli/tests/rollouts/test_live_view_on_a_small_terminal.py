"""What `windlass watch` shows on 80 columns and 24 lines when there is much to say."""

from __future__ import annotations

from pathlib import Path

from test_directory_commands import SERVING, Directory, digest, ref

from windlass_contract.model_version import (
    Condition,
    ConditionStatus,
    ConditionType,
    GateEvidence,
    ModelVersionStatus,
)
from windlass_contract.plan import ModelPlan, PlannedVersion
from windlass_contract.record import ModelRecord

FAULT = (
    "it doesn't compute here what it computed where it was packed (windlass/parity/serving_default.npz): output 'y': "
    "1 of 1 values differ, the first at [0, 0]: expected 12345, got 9"
)
MESSAGE = (
    f"{FAULT}. These model files stay quarantined however they are packed: roll out a model that differs under a new "
    "number, or clear version 2, and they may be tried again. Version 1 serves"
)


def test_a_long_message_is_shown_once_in_full_and_nothing_is_pushed_out(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.version(1, SERVING)
    stalled = Condition(
        type=ConditionType.STALLED, status=ConditionStatus.TRUE, reason="ParityFailed", message=f"{FAULT}, on two"
    )
    evidence = [GateEvidence(gate="Parity", result="Failed", statistic=FAULT[104:], replica="a")]
    directory.version(
        2,
        ModelVersionStatus(
            phase="Quarantined", message=MESSAGE, digest=digest(2), conditions=[stalled], evidence=evidence
        ),
    )
    plan = ModelPlan(committed=1, versions=[PlannedVersion(version=1, digest=digest(1), weight=1000)])
    directory.record(ModelRecord(committed=ref(1)), plan)
    directory.event(1, "Committed", "version 1 serves")
    for replica in ("a", "b"):
        directory.event(2, "Quarantined", f"{FAULT} (on {replica})", "Warning")
    said = directory.shown(80, 24)
    words = " ".join(said.replace("│", " ").replace("├──", " ").replace("└──", " ").split())
    assert words.count("1 of 1 values differ") == 1, said
    assert "clear version 2, and they may be tried again" in words
    assert "Quarantined cats-2: it doesn't compute here what it" in words
    assert "Committed cats-1: version 1 serves" in words
    assert len(said.splitlines()) <= 24
