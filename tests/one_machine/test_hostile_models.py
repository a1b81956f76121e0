"""Hostile models beside a good one that serves under load: they are refused before they are loaded, and those that
misbehave when they are called harm themselves alone. No client of the good version sees anything but 2xx."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from windlass_contract.artifact import read_manifest
from windlass_testing.models import hostile, misbehaving, python_layer
from windlass_testing.one_machine import OneMachine, one_machine, wait_until

pytestmark = [pytest.mark.hardening, pytest.mark.evidence]

REQUEST_SECONDS = 10.0
SAID = {
    "nan": "answers NaN",
    "gigabyte": "answers a gigabyte",
    "crashes": "crashes on every 50th request",
    "spins": "spins beyond the deadline",
    "sleeps": "sleeps for ever",
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMachine]:
    """Its replica waits for an answer only so long."""
    with one_machine(tmp_path_factory.mktemp("machine"), replicas=0) as machine:
        machine.add_replica("replica-1", f"--request-deadline={REQUEST_SECONDS}")
        yield machine


@pytest.mark.parametrize("at_load", [False, True], ids=["when called", "when loaded"])
@pytest.mark.parametrize(
    ("does", "operation"),
    [
        ("reads_file", "ReadFile"),
        ("writes_file", "WriteFile"),
        ("opens_connection", "DataServiceDatasetV4"),
        ("runs_python", "EagerPyFunc"),
    ],
)
def test_a_model_with_a_forbidden_operation_is_refused_before_it_is_loaded(
    rig: Any, tmp_path: Path, does: str, operation: str, at_load: bool
) -> None:
    argument = {"reads_file": "/proc/self/environ", "writes_file": str(tmp_path / "written")}.get(does, "127.0.0.1:9")
    folder = hostile(rig.machine.models, rig.model, 2, does, at_load=at_load, argument=argument)
    with rig.undisturbed(f"one whose model uses {operation} when it is {'loaded' if at_load else 'called'}"):
        name = rig.roll(2, digest=read_manifest(folder).digest)
        rig.machine.wait_for_phase(name, "Quarantined")
    status = str(rig.machine.status(name))
    assert "ForbiddenOperation" in status
    assert f"operation {operation} " in status
    # A Python function of the program that saved the model is nowhere to be found here, whoever allows it.
    assert (f"--allow-operation {operation}" in status) is (does != "runs_python")
    assert not (tmp_path / "written").exists()


def test_python_code_in_keras_files_is_never_run_by_a_replica(rig: Any, tmp_path: Path) -> None:
    folder = python_layer(rig.machine.models, rig.model, 2, tmp_path / "written")
    assert {path.name for path in folder.iterdir()} >= {"model.keras", "model.h5"}
    with rig.undisturbed("one of .keras and .h5 files with a Lambda layer"):
        name = rig.roll(2, digest=read_manifest(folder).digest)
        status = rig.machine.wait_for_phase(name, "Quarantined")
    assert "saved_model.pb" in status["message"]
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("how", "values", "codes"),
    [
        ("nan", [2000.0], {200}),
        ("gigabyte", [2000.0], {500}),
        ("crashes", [1.0] * 120, {200, 503}),
        ("spins", [REQUEST_SECONDS * 1300], {504}),
        ("sleeps", [2000.0], {504}),
    ],
)
def test_a_model_that_misbehaves_when_it_is_called_leaves_others_alone(
    rig: Any, how: str, values: list[float], codes: set[int]
) -> None:
    other = f"{rig.model}-{how}"
    folder = misbehaving(rig.machine.models, other, 1, how)
    name = rig.machine.apply(rig.machine.document(other, 1, read_manifest(folder).digest))
    rig.machine.wait_for_phase(name, "Serving")
    with rig.undisturbed(f"a model that, when called, {SAID[how]}"):
        answers = [rig.replica.predict(other, [[value]]) for value in values]
        # It answers again: what hangs holds one place, and a worker that crashed is started anew.
        wait_until("it answers", lambda: rig.replica.predict(other, [[1.0]]).status_code == 200)
    assert {answer.status_code for answer in answers} == codes, [answer.text for answer in answers][-3:]
    if how == "nan":
        assert answers[0].text.replace(" ", "") == '{"predictions":[[NaN]]}'
    rig.machine.apply(rig.machine.document(other, 1, read_manifest(folder).digest, state="Retired"))
