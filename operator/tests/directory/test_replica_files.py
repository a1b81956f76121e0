"""What replicas report, for people: written when it changed, at most once a second."""

from __future__ import annotations

import json
from pathlib import Path

from windlass_contract.plan import ServingPlan
from windlass_contract.report import Counters, ModelReport, ServingReport, VersionReport, VersionState
from windlass_operator.directory_driver.replicas import ReplicaFiles
from windlass_operator.engine.interface import SeenReport

PLAN = ServingPlan.build("digits", 3, {})


def seen(sequence: int, state: VersionState, requests: int = 0, age: float = 0.1) -> SeenReport:
    version = VersionReport(version=2, state=state, counters=Counters(requests=requests))
    models = {"m": ModelReport(versions=[version])}
    report = ServingReport(
        server="digits", replica="one", instance="0123456789", sequence=sequence, plan=PLAN, models=models
    )
    return SeenReport(report, age)


def test_a_change_is_written_once_and_again_only_after_a_second(tmp_path: Path) -> None:
    now = [100.0]
    files = ReplicaFiles(tmp_path, lambda: now[0])
    assert files.show("digits", [seen(1, VersionState.LOADING)])
    assert not files.show("digits", [seen(2, VersionState.PREPARED)]), "it is too soon"
    now[0] += 1.0
    assert files.show("digits", [seen(3, VersionState.PREPARED)])
    now[0] += 1.0
    assert not files.show("digits", [seen(4, VersionState.PREPARED, requests=9)]), "counters alone are no news"
    (report,) = json.loads((tmp_path / "digits.json").read_text())
    assert ServingReport.parse(report, "digits.json").version("m", 2).state is VersionState.PREPARED
    assert "plan" not in report


def test_a_replica_that_is_silent_is_not_shown_any_more(tmp_path: Path) -> None:
    now = [100.0]
    files = ReplicaFiles(tmp_path, lambda: now[0])
    files.show("digits", [seen(1, VersionState.PREPARED)])
    now[0] += 6.0
    assert files.show("digits", [seen(1, VersionState.PREPARED, age=6.0)])
    assert json.loads((tmp_path / "digits.json").read_text()) == []
