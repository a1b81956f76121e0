"""A running operator and replica with a good version, for the tests of this folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from windlass_contract.artifact import read_manifest
from windlass_testing.evidence import measured
from windlass_testing.load import Load, Request
from windlass_testing.models import affine, affine_tflite
from windlass_testing.one_machine import OneMachine, Replica, one_machine, wait_until
from windlass_testing.oom import oom_kills

_numbers = itertools.count(1)


class Rig:
    """An operator, a replica, and a model of the test's own, of which version v answers (v + 1) x."""

    def __init__(self, machine: OneMachine, make: Callable[..., Path] = affine) -> None:
        """`make`: makes honest versions."""
        self.machine = machine
        self._make = make
        self.model = f"m{next(_numbers)}"

    @property
    def replica(self) -> Replica:
        """The first replica."""
        return next(iter(self.machine.replicas.values()))

    def name(self, version: int) -> str:
        """Of a version's ModelVersion."""
        return f"{self.model}-{version}"

    def requests(self, check: Callable[[Any, str], str] = lambda _body, _version: "") -> list[Request]:
        """What load sends: x = 1."""
        return [Request(f"/v1/models/{self.model}:predict", {"instances": [[1.0]]}, check)]

    def pack(self, version: int, **options: Any) -> str:
        """An honest version; gives its digest."""
        return read_manifest(self._make(self.machine.models, self.model, version, version + 1.0, 0.0, **options)).digest

    def roll(self, version: int, *, digest: str | None = None, **spec: Any) -> str:
        """Packs (unless a digest is given) and applies a version; gives the ModelVersion's name."""
        digest = digest or self.pack(version)
        return self.machine.apply(self.machine.document(self.model, version, digest, **spec))

    def serve(self, version: int, **spec: Any) -> str:
        """Rolls an honest version out and waits until it serves."""
        name = self.roll(version, **spec)
        self.machine.wait_for_phase(name, "Serving")
        return name

    def answer(self, suffix: str = "") -> Any:
        """The prediction for x = 1, else the error's text."""
        response = self.replica.predict(self.model, [[1.0]], suffix)
        body = response.json()
        return body["predictions"][0][0] if response.status_code == 200 else body["error"]

    @contextmanager
    def undisturbed(self, what: str) -> Iterator[Load]:
        """Constant load on version 1 meanwhile: each answer is 2xx, right and of it, and the OOM killer did nothing.
        `what` happens, for the evidence."""

        def check(body: Any, version: str) -> str:
            return "" if body == {"predictions": [[2.0]]} and version == "1" else f"{version}: {body}"

        assert self.replica.process.popen is not None
        pid = self.replica.process.popen.pid
        kills = oom_kills(pid)
        with Load(self.replica.url, self.requests(check), rate=40) as load:
            yield load
            seen = len(load.answers)
            wait_until("the good version went on", lambda: len(load.answers) > seen + 20)
        measured(
            "hostile-models",
            f"one replica, a good version serves 40 requests/s beside {what}",
            f"{len(load.lost)} of {len(load.answers)} requests lost, {oom_kills(pid) - kills} OOM kills",
            "make evidence",
        )
        assert load.lost == []
        assert load.wrong == []
        assert self.replica.process.running
        assert oom_kills(pid) == kills

    def retire(self) -> None:
        """Gives the memory of the test's model back."""
        for path in self.machine.directory.glob(f"{self.model}-*.yaml"):
            document = yaml.safe_load(path.read_text())
            document["spec"]["state"] = "Retired"
            self.machine.apply(document, path.name)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMachine]:
    """An operator and a replica that the tests of a file share; each has a model of its own."""
    with one_machine(tmp_path_factory.mktemp("machine")) as machine:
        yield machine


@pytest.fixture
def rig(machine: OneMachine) -> Iterator[Rig]:
    """Version 1 of the test's model serves."""
    rig = Rig(machine)
    rig.serve(1)
    yield rig
    rig.retire()


@pytest.fixture
def fresh_rig(tmp_path: Path) -> Iterator[Rig]:
    """The same with processes of its own, to be killed. Its models need no TensorFlow, whose import takes longest."""
    with one_machine(tmp_path) as machine:
        rig = Rig(machine, affine_tflite)
        rig.serve(1)
        yield rig


@pytest.fixture
def fresh_tensorflow_rig(tmp_path: Path) -> Iterator[Rig]:
    """The same with TensorFlow's models, whose loads can be made to take long."""
    with one_machine(tmp_path) as machine:
        rig = Rig(machine)
        rig.serve(1)
        yield rig


@pytest.fixture
def empty_rig(tmp_path: Path) -> Iterator[Rig]:
    """Nothing serves yet."""
    with one_machine(tmp_path) as machine:
        yield Rig(machine)
