"""Real models whose variables become constants, in real workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from windlass_contract.report import VersionState
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.channel import Answer
from windlass_server.hosting.freezing import MEMORY_FACTOR
from windlass_server.hosting.hosted_worker import HostedWorker, ResidentSettings
from windlass_server.hosting.resident import Resident
from windlass_testing import models
from windlass_testing.waiting import until

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Make = Callable[..., Resident]
IMAGES = np.random.default_rng(3).integers(0, 255, (6, 96, 96, 3), np.uint8)


class Listened:
    """What main asks workers about freezing. `then` is done before a worker is asked for `when`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, when: str = "", then: Callable[[HostedWorker], None] = lambda _: None
    ) -> None:
        self.asked: list[str] = []
        call = HostedWorker.call

        async def listened(worker: HostedWorker, head: dict[str, Any], *tensors: Any) -> Answer:
            if head["op"] in {"freeze", "try", "adopt"}:
                self.asked.append(head["op"])
            if head["op"] == when:
                then(worker)
            answer = await call(worker, head, *tensors)
            # Whether it is quicker is a matter of time, which tests beside others haven't in their hands.
            return ({"better": True}, answer[1]) if head["op"] == "try" else answer

        monkeypatch.setattr(HostedWorker, "call", listened)


def die(worker: HostedWorker) -> None:
    os.kill(worker.pid, signal.SIGSEGV)


async def scores(resident: Resident) -> Any:
    return (await resident.infer("serving_default", {"x": IMAGES}, timeout=30))["scores"]


def room(left: int) -> Any:
    """With so much memory left beyond the reserve."""
    return SimpleNamespace(reserve=0, level=lambda: SimpleNamespace(left=left), lack=lambda *_, **__: None)


def test_a_network_is_frozen_answers_the_same_and_is_frozen_again_after_a_crash(
    run: Run, make_resident: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listened = Listened(monkeypatch)
    models.network(tmp_path, "m", 1, 1)
    frozen = make_resident("m")
    plain = make_resident("m", settings=ResidentSettings(threads=2, freeze_bytes=0))

    async def main() -> None:
        await frozen.prepare()
        await plain.prepare()
        assert (frozen.state, plain.state) == (VersionState.PREPARED, VersionState.PREPARED)
        assert (frozen.frozen, plain.frozen) == (True, False)
        assert listened.asked == ["freeze", "try", "adopt"]
        expected = await scores(plain)
        np.testing.assert_allclose(await scores(frozen), expected, rtol=1e-4, atol=1e-5)
        first = frozen.worker_pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: frozen.worker_pid not in {None, first})
        assert frozen.frozen
        assert listened.asked[3:] == ["freeze", "adopt"], "it isn't tried again what was seen before"
        np.testing.assert_allclose(await scores(frozen), expected, rtol=1e-4, atol=1e-5)

    run(main())


@pytest.mark.parametrize("when", ["freeze", "try", "adopt"])
def test_a_model_whose_worker_dies_of_being_frozen_is_served_as_it_is(
    run: Run, make_resident: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    listened = Listened(monkeypatch, when, die)
    models.network(tmp_path, "m", 1, 1)
    resident = make_resident("m")

    async def main() -> None:
        await resident.prepare()
        assert (resident.state, resident.frozen, resident.failure) == (VersionState.PREPARED, False, None)
        assert listened.asked.count("freeze") == 1
        assert [gate.gate.value for gate in resident.gates].count("Load") == 1, "the evidence is of what serves"
        assert (await scores(resident)).shape == (6, 10)

    run(main())


@pytest.mark.parametrize("what", ["can't be frozen", "fails its warm-up"])
def test_a_model_that_fails_frozen_is_judged_as_it_was_saved(
    run: Run, make_resident: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    Listened(monkeypatch)
    asked, ran = HostedWorker.call, HostedWorker.run
    failed: list[str] = []

    async def refuse_to_freeze(worker: HostedWorker, head: dict[str, Any], *tensors: Any) -> Answer:
        if head["op"] == "freeze" and what == "can't be frozen":
            failed.append(what)
            raise ServingError(Code.INTERNAL, "ValueError: no")
        return await asked(worker, head, *tensors)

    async def refuse_to_run(worker: HostedWorker, *given: Any, **named: Any) -> Any:
        if resident.frozen:
            failed.append(what)
            raise ServingError(Code.INTERNAL, "no")
        return await ran(worker, *given, **named)

    monkeypatch.setattr(HostedWorker, "call", refuse_to_freeze)
    monkeypatch.setattr(HostedWorker, "run", refuse_to_run)
    models.network(tmp_path, "m", 1, 1)
    resident = make_resident("m")

    async def main() -> None:
        await resident.prepare()
        assert (resident.state, resident.frozen, resident.failure) == (VersionState.PREPARED, False, None)
        assert failed == [what]
        assert (await scores(resident)).shape == (6, 10)

    run(main())


@pytest.mark.parametrize(
    ("settings", "tried"),
    [
        pytest.param({"freeze_bytes": 0}, False, id="turned off"),
        pytest.param({"freeze_bytes": 1_000_000}, False, id="more variables than that"),
        pytest.param({"room": room(MEMORY_FACTOR * 1_600_000)}, False, id="too little memory"),
        pytest.param({"room": room(MEMORY_FACTOR * 1_800_000)}, True, id="memory enough"),
    ],
)
def test_freezing_is_tried_where_the_setting_and_memory_allow_it(
    run: Run, make_resident: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, tried: bool
) -> None:
    """Its variables have 1.7 MB."""
    listened = Listened(monkeypatch)
    models.network(tmp_path, "m", 1, 1)
    resident = make_resident("m", settings=ResidentSettings(threads=2, **settings))

    async def main() -> None:
        await resident.prepare()
        assert resident.state is VersionState.PREPARED
        assert (bool(listened.asked), resident.frozen) == (tried, tried)

    run(main())


@pytest.mark.parametrize(
    ("kind", "tried"), [("plain", True), ("branching", False), ("counting", False), ("looking up", False)]
)
def test_only_what_computes_and_reads_variables_is_tried(
    run: Run, make_resident: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, tried: bool
) -> None:
    listened = Listened(monkeypatch)
    models.deep(tmp_path, "m", 1, kind)
    resident = make_resident("m")

    async def main() -> None:
        await resident.prepare()
        assert resident.state is VersionState.PREPARED
        assert (bool(listened.asked), resident.frozen) == (tried, tried)
        x = np.full((2, 4), 0.5, np.float32)
        y = (await resident.infer("serving_default", {"x": x}, timeout=30))["y"]
        expected = x
        for index in range(20):
            expected = np.tanh(expected * np.float32(1 + index / 100))
        np.testing.assert_allclose(y, expected, rtol=1e-4)

    run(main())


def test_models_with_few_variables_or_none_are_not_tried(
    run: Run, make_resident: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listened = Listened(monkeypatch)
    models.rowwise(tmp_path, "dense", 1, "dense")
    models.affine_tflite(tmp_path, "tflite", 1, 2.0, 0.0)
    residents = [make_resident("dense"), make_resident("tflite")]

    async def main() -> None:
        for resident in residents:
            await resident.prepare()
            assert (resident.state, resident.frozen) == (VersionState.PREPARED, False)
        assert listened.asked == []

    run(main())
