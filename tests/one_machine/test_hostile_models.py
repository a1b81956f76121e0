"""Hostile models beside a good one that serves under load: they are refused, or denied what they want by the kernel,
and no client of the good version sees anything but 2xx."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from windlass_contract.artifact import read_manifest
from windlass_server.hosting.confinement import IN_FORCE
from windlass_testing.load import Load
from windlass_testing.models import hostile, misbehaving
from windlass_testing.one_machine import OneMachine, Replica, one_machine, wait_until

pytestmark = pytest.mark.hardening

TRUSTED = ["ReadFile", "WriteFile"]
Make = Callable[[Path, str, int], Path]


@contextmanager
def good_version_serves(rig: Any) -> Iterator[None]:
    """Constant load on version 1 meanwhile; every answer is 2xx and right."""

    def check(body: Any, version: str) -> str:
        return "" if body == {"predictions": [[2.0]]} and version == "1" else f"{version}: {body}"

    with Load(rig.replica.url, rig.requests(check), rate=40) as load:
        yield
        seen = len(load.answers)
        wait_until("the good version went on", lambda: len(load.answers) > seen + 20)
    assert load.lost == []
    assert load.wrong == []


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
    with good_version_serves(rig):
        name = rig.roll(2, digest=read_manifest(folder).digest)
        rig.machine.wait_for_phase(name, "Quarantined")
    status = str(rig.machine.status(name))
    assert "ForbiddenOperation" in status
    assert f"operation {operation} " in status
    assert f"--allow-operation {operation}" in status
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("how", "values"),
    [("nan", [2000.0]), ("gigabyte", [2000.0]), ("crashes", [1.0] * 120), ("spins", [3000.0])],
)
def test_a_model_that_misbehaves_when_called_leaves_others_alone(rig: Any, how: str, values: list[float]) -> None:
    other = f"{rig.model}-{how}"
    folder = misbehaving(rig.machine.models, other, 1, how)
    name = rig.machine.apply(rig.machine.document(other, 1, read_manifest(folder).digest))
    rig.machine.wait_for_phase(name, "Serving")
    with good_version_serves(rig):
        codes = {rig.replica.predict(other, [[value]]).status_code for value in values}
    if how == "nan":
        assert codes == {200}
    elif how == "gigabyte":
        assert codes == {500}
    elif how == "crashes":
        assert codes <= {200, 503}
        assert 503 in codes
    else:
        assert codes <= {200, 504}
    # It answers again: a worker that crashed was started anew.
    wait_until("it answers", lambda: rig.replica.predict(other, [[1.0]]).status_code == 200)
    document = rig.machine.document(other, 1, read_manifest(folder).digest, state="Retired")
    rig.machine.apply(document)


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMachine]:
    """Its owner allows the operations of these hostile models: only the kernel is in their way."""
    with one_machine(tmp_path_factory.mktemp("trusting"), replicas=0) as machine:
        machine.add_replica("replica-1", *(f"--allow-operation={name}" for name in TRUSTED))
        yield machine


def confinement(replica: Replica) -> dict[str, str]:
    """What `/health` says."""
    return dict(replica.get("/health").json()["confinement"])


def serve(machine: OneMachine, model: str, make: Make) -> Replica:
    """Rolls a version out to the end, whatever it is."""
    digest = read_manifest(make(machine.models, model, 1)).digest
    name = machine.apply(machine.document(model, 1, digest))
    machine.wait_for_phase(name, "Serving", "Quarantined")
    return machine.replicas["replica-1"]


@pytest.mark.parametrize("path", ["/proc/self/environ", "/proc/1/environ", "/etc/passwd"])
def test_an_allowed_read_is_denied_by_the_kernel(trusting: OneMachine, path: str) -> None:
    model = "reads-" + path.strip("/").replace("/", "-")
    digest = read_manifest(hostile(trusting.models, model, 1, "reads_file", argument=path)).digest
    name = trusting.apply(trusting.document(model, 1, digest))
    status = trusting.wait_for_phase(name, "Quarantined")
    replica = trusting.replicas["replica-1"]
    assert confinement(replica)["files"] == IN_FORCE
    assert "Permission denied" in str(status) or "PermissionDenied" in str(status)


@pytest.mark.parametrize("at_load", [False, True], ids=["when called", "when loaded"])
def test_an_allowed_write_is_denied_by_the_kernel(trusting: OneMachine, tmp_path: Path, at_load: bool) -> None:
    target = tmp_path / "written"
    model = f"writes-{int(at_load)}"
    serve(
        trusting,
        model,
        lambda models, name, version: hostile(
            models, name, version, "writes_file", at_load=at_load, argument=str(target)
        ),
    )
    status = str(trusting.status(f"{model}-1"))
    assert "Permission denied" in status or "PermissionDenied" in status
    assert not target.exists()
