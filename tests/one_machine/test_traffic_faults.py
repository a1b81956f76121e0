"""Versions whose fault only real traffic shows: they crash or hang on some requests. No client sees it while the
version before is resident, and a version that does it too often is taken back, with an operator and without."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from windlass_contract.artifact import read_manifest
from windlass_contract.manifest import DataType, Signature
from windlass_testing.evidence import measured
from windlass_testing.load import Load, Request
from windlass_testing.models import affine, crashing_on_request, slow, spec
from windlass_testing.one_machine import OneMachine, Replica, one_machine, wait_until

pytestmark = pytest.mark.timeout(400)

COLUMN = spec(DataType.FP32, [-1, 1])
X_TO_Y = {"serving_default": Signature(inputs={"x": COLUMN}, outputs={"y": COLUMN})}
CRASH, HANG = 2000.0, 30.0
DEADLINE_SECONDS = 4
COMMAND = "make evidence ARGS=tests/one_machine/test_traffic_faults.py"


class Stage:
    """Version 1 of model m answers x; version 2 is committed, and fails on some x."""

    def __init__(self, machine: OneMachine, make: Callable[..., Path]) -> None:
        self.machine = machine
        affine(machine.models, "m", 1, 1, 0, signatures=X_TO_Y)
        self._roll(1)
        make(machine.models, "m", 2)
        self._roll(2)

    @property
    def replica(self) -> Replica:
        return next(iter(self.machine.replicas.values()))

    def _roll(self, version: int) -> None:
        digest = read_manifest(self.machine.models / "m" / str(version)).digest
        self.machine.wait_for_phase(self.machine.apply(self.machine.document("m", version, digest)), "Serving")

    def load(self, *inputs: float, rate: float = 15) -> Load:
        """Asks for these, in turn."""
        requests = [
            Request("/v1/models/m:predict", {"instances": [[x]]}, lambda body, _version, x=x: _wrong(body, x))
            for x in inputs
        ]
        return Load(self.replica.url, requests, rate=rate, senders=8)

    def metric(self, name: str) -> float:
        lines = self.machine_metrics().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def machine_metrics(self) -> str:
        return httpx.get(f"{self.replica.metrics_url}/metrics", timeout=30).text

    def answered_by(self, x: float = 1.0) -> str:
        return self.replica.predict("m", [[x]]).headers.get("X-Model-Version", "")


def _wrong(body: Any, x: float) -> str:
    return "" if body == {"predictions": [[x]]} else f"{body} for {x}"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[OneMachine]:
    with one_machine(tmp_path, replicas=0) as machine:
        machine.add_replica("replica-1", "--request-deadline", str(DEADLINE_SECONDS))
        yield machine


def assert_unseen(load: Load) -> None:
    assert load.lost == []
    assert load.wrong == []


@pytest.mark.evidence
@pytest.mark.parametrize(("make", "bad"), [(crashing_on_request, CRASH), (slow, HANG)], ids=["crashing", "slow"])
def test_a_version_that_fails_its_clients_is_taken_back_and_quarantined_and_no_client_sees_it(
    machine: OneMachine, make: Callable[..., Path], bad: float
) -> None:
    stage = Stage(machine, make)
    with stage.load(0.0, bad, bad) as load:
        machine.wait_for_phase("m-2", "RolledBack", timeout=150)
        wait_until("version 1 is committed again", lambda: machine.status("m-1").get("phase") == "Serving")
        before = len(load.answers)
        wait_until("some more are answered", lambda: len(load.answers) > before + 30)
    assert_unseen(load)
    assert stage.answered_by(bad) == "1"
    assert {answer.version for answer in load.answers[-20:]} == {"1"}
    assert stage.metric("windlass_fallbacks_total{") > 0
    rolled_back = machine.condition("m-2", "RolledBack")
    assert rolled_back["reason"] == "RolledBack"
    assert "failed by its own fault" in rolled_back["message"]
    measured(
        "traffic-faults",
        f"one replica, a {make.__name__.replace('_', ' ')} version committed; two of three requests make it fail",
        f"{len(load.answers)} requests: {len(load.lost)} not 2xx, {len(load.wrong)} wrong; taken back and quarantined",
        COMMAND,
    )


def test_the_answer_names_the_version_that_gave_it_and_a_named_version_has_no_stand_in(machine: OneMachine) -> None:
    stage = Stage(machine, crashing_on_request)
    assert stage.answered_by(5.0) == "2"
    answer = stage.replica.predict("m", [[CRASH]])
    assert (answer.status_code, answer.json()) == (200, {"predictions": [[CRASH]]})
    assert answer.headers["X-Model-Version"] == "1"
    assert answer.headers["X-Model-Digest"] == read_manifest(machine.models / "m" / "1").digest
    wait_until("version 2 is back", lambda: stage.answered_by() == "2")
    named = stage.replica.predict("m", [[CRASH]], "/versions/2")
    assert named.status_code == 503
    assert named.headers["X-Model-Version"] == "2"


@pytest.mark.evidence
def test_with_no_operator_in_reach_the_breaker_takes_the_traffic_back_by_itself_and_an_operator_then_rolls_back(
    machine: OneMachine,
) -> None:
    stage = Stage(machine, crashing_on_request)
    machine.operator.stop(signal.SIGKILL)
    began = time.monotonic()
    with stage.load(0.0, CRASH) as load:
        wait_until(
            "the breaker is open",
            lambda: stage.metric('windlass_breaker_open{model="m",version="2"}') == 1,
            timeout=150,
            last_seen=stage.machine_metrics,
        )
        opened = time.monotonic() - began
        restarts = stage.metric('windlass_worker_restarts_total{model="m",version="2"}')
        before = len(load.answers)
        wait_until("some more are answered", lambda: len(load.answers) > before + 60)
        assert stage.metric('windlass_worker_restarts_total{model="m",version="2"}') <= restarts + 1
        health = stage.replica.get("/health").json()
        assert (health["status"], stage.answered_by()) == ("degraded", "1")
        assert any("version 2 of model m gets no traffic" in reason for reason in health["reasons"])
        machine.operator.start()
        machine.wait_for_phase("m-2", "RolledBack")
        wait_until("the breaker is closed", lambda: stage.metric("windlass_breaker_open{") == 0)
    measured(
        "traffic-faults",
        "one replica, no operator in reach, a version committed that crashes at every second request",
        f"{len(load.answers)} requests: {len(load.lost)} not 2xx, {len(load.wrong)} wrong; traffic taken "
        f"back by the replica itself after {opened:.0f} s",
        COMMAND,
    )
    assert_unseen(load)
    assert machine.status("m-1")["phase"] == "Serving"
