"""What is left of protection when the server's owner allows operations by name: the kernel denies what they want.
A good version serves under load meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from windlass_contract.artifact import read_manifest
from windlass_server.hosting.confinement import IN_FORCE
from windlass_testing.models import hostile
from windlass_testing.one_machine import OneMachine, one_machine

pytestmark = [pytest.mark.hardening, pytest.mark.evidence]

ALLOWED = [
    *("ReadFile", "WriteFile", "EagerPyFunc"),
    *("DataServiceDatasetV4", "DatasetToSingleElement", "DummyIterationCounter"),
]
LOAD_SECONDS = 25


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMachine]:
    """Its owner allows the operations of these hostile models."""
    with one_machine(tmp_path_factory.mktemp("trusting"), replicas=0) as machine:
        flags = [f"--allow-operation={name}" for name in ALLOWED]
        machine.add_replica("replica-1", *flags, f"--load-deadline={LOAD_SECONDS}")
        yield machine


def rolled(rig: Any, what: str, folder: Path, *phases: str) -> str:
    """What is said of version 2 in the end, while version 1 serves."""
    with rig.undisturbed(f"one whose model is allowed to, and {what}"):
        name = rig.roll(2, digest=read_manifest(folder).digest)
        rig.machine.wait_for_phase(name, *phases)
    assert rig.replica.get("/health").json()["confinement"]["files"] == IN_FORCE
    return str(rig.machine.status(name))


@pytest.mark.parametrize("path", ["/proc/self/environ", "/proc/1/environ", "/etc/passwd"])
def test_an_allowed_read_is_denied_by_the_kernel(rig: Any, path: str) -> None:
    status = rolled(
        rig, f"reads {path}", hostile(rig.machine.models, rig.model, 2, "reads_file", argument=path), "Quarantined"
    )
    assert "Permission denied" in status or "PermissionDenied" in status


@pytest.mark.parametrize("at_load", [False, True], ids=["when called", "when loaded"])
def test_an_allowed_write_is_denied_by_the_kernel(rig: Any, tmp_path: Path, at_load: bool) -> None:
    target = tmp_path / "written"
    folder = hostile(rig.machine.models, rig.model, 2, "writes_file", at_load=at_load, argument=str(target))
    status = rolled(rig, f"writes a file when {'loaded' if at_load else 'called'}", folder, "Quarantined")
    assert "Permission denied" in status or "PermissionDenied" in status
    assert not target.exists()


def test_an_allowed_connection_is_never_made(rig: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        folder = hostile(rig.machine.models, rig.model, 2, "opens_connection", argument=address)
        # TensorFlow tries again and again; the load's deadline ends that.
        status = rolled(rig, "opens a connection", folder, "Stalled")
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert "LoadDeadlineExceeded" in status


def test_python_functions_cannot_be_allowed(rig: Any) -> None:
    status = rolled(
        rig, "calls a Python function", hostile(rig.machine.models, rig.model, 2, "runs_python"), "Quarantined"
    )
    assert "ForbiddenOperation" in status
    assert "isn't part of its files" in status
