"""Versions that serve: many requests, deadlines, bounds, crashes, restarts, unloading. Real models, real workers."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import windlass_server.hosting.resident
from windlass_contract.failures import Gate, Reason
from windlass_contract.report import VersionState
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.faults import NoAnswerInTimeError
from windlass_server.hosting.preparation import Preparation
from windlass_server.hosting.resident import Resident, ResidentSettings
from windlass_testing import models
from windlass_testing.waiting import DEADLINE_SECONDS as DEADLINE
from windlass_testing.waiting import until

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Make = Callable[..., Resident]
ONE = {"x": np.ones((1, 1), np.float32)}


def column(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32).reshape(-1, 1)


async def ask(resident: Resident, *values: float, wait: float = DEADLINE) -> list[float]:
    answer = await resident.infer("serving_default", {"x": column(*values)}, timeout=wait)
    return [float(value) for value in next(iter(answer.values())).ravel()]


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_crash_while_serving_is_restarted_and_others_do_not_notice(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.crashing_on_request(tmp_path, "fragile", 1)
    models.half_plus_two(tmp_path)
    fragile, steady = make_resident("fragile"), make_resident("half_plus_two")

    async def main() -> None:
        await fragile.prepare()
        await steady.prepare()
        before, pid = steady.worker_pid, fragile.worker_pid
        stop = asyncio.Event()
        answered = 0

        async def load() -> None:
            nonlocal answered
            while not stop.is_set():
                assert await ask(steady, 4) == [4]
                answered += 1

        loading = asyncio.create_task(load())
        with pytest.raises(ServingError) as raised:
            await ask(fragile, 2000)
        assert raised.value.code is Code.UNAVAILABLE
        await until(lambda: fragile.state is VersionState.LOADING and fragile.failure is not None)
        assert fragile.failure is not None
        assert fragile.failure.reason is Reason.WORKER_CRASHED
        assert fragile.digest is not None
        await until(lambda: fragile.state is VersionState.PREPARED)
        assert (fragile.restarts, fragile.failure) == (1, None)
        assert fragile.worker_pid != pid
        assert await ask(fragile, 7) == [7]
        assert Gate.LOAD in {gate.gate for gate in fragile.gates}
        stop.set()
        await loading
        assert answered > 0
        assert (steady.worker_pid, steady.restarts) == (before, 0)

    run(main())


def test_a_restart_that_breaks_for_whatever_reason_is_tried_again(
    run: Run, make_resident: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.crashing_on_request(tmp_path, "m", 1)
    resident = make_resident("m", settings=ResidentSettings(threads=2, restart_backoff=(0.05, 0.1)))
    attempt, faults = Preparation.run, [OSError(errno.ESTALE, "Stale file handle")]

    async def breaks_once(self: Preparation, **how: bool) -> Any:
        if faults:
            raise faults.pop()
        return await attempt(self, **how)

    async def main() -> None:
        await resident.prepare()
        monkeypatch.setattr(Preparation, "run", breaks_once)
        with pytest.raises(ServingError):
            await ask(resident, 2000)
        await until(lambda: not faults and resident.state is VersionState.PREPARED)
        assert resident.restarts == 2
        assert await ask(resident, 7) == [7]

    run(main())


class Times(list[Any]):
    """Notes when each state was entered."""

    def append(self, state: str) -> None:
        super().append((state, time.monotonic()))


def test_the_pause_between_restarts_grows(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.crashing_on_request(tmp_path, "m", 1)
    seen = Times()
    resident = make_resident("m", seen=seen, settings=ResidentSettings(threads=2, restart_backoff=(0.2, 1)))

    async def main() -> None:
        await resident.prepare()
        for restart in range(1, 5):
            with pytest.raises(ServingError):
                await ask(resident, 2000)
            await until(lambda: resident.restarts == restart and resident.state is VersionState.PREPARED)  # noqa: B023

    run(main())
    pauses = [
        at - before
        for (earlier, before), (state, at) in itertools.pairwise(seen)
        if (earlier, state) == ("Loading", "Verifying")
    ]
    # 0.2, 0.4, 0.8, and then no longer than 1 s: only lower bounds, since the machine may be busy.
    assert [pause >= least for pause, least in zip(pauses, (0.2, 0.4, 0.8, 1.0), strict=True)] == [True] * 4


def test_requests_run_beside_each_other_and_a_slow_one_does_not_hold_up_another(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.slow(tmp_path, "m", 1)
    resident = make_resident("m")

    async def main() -> None:
        await resident.prepare()
        slow = asyncio.create_task(ask(resident, 20))
        await until(lambda: resident.in_flight == 1)
        assert await ask(resident, 0) == [0]
        assert not slow.done()
        slow.cancel()
        await asyncio.wait([slow])
        assert resident.in_flight == 0

    run(main())


def test_a_request_beyond_its_deadline_fails_and_the_next_is_answered(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.slow(tmp_path, "m", 1)
    resident = make_resident("m")

    async def main() -> None:
        await resident.prepare()
        with pytest.raises(ServingError) as raised:
            await ask(resident, 2, wait=0.2)
        assert raised.value.code is Code.DEADLINE_EXCEEDED
        assert await ask(resident, 0) == [0]

    run(main())


def test_many_waiting_requests_are_all_answered_or_out_of_time_in_order(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.half_plus_two(tmp_path)
    resident = make_resident("half_plus_two")

    async def main() -> None:
        await resident.prepare()
        answers = await asyncio.gather(*(ask(resident, index) for index in range(300)))
        assert answers == [[0.5 * index + 2] for index in range(300)]

    run(main())


def test_a_stuck_worker_is_killed_and_replaced(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.slow(tmp_path, "m", 1)
    resident = make_resident("m", settings=ResidentSettings(threads=1, stuck_after=1.5))

    async def main() -> None:
        await resident.prepare()
        first = resident.worker_pid
        with pytest.raises(ServingError) as raised:
            await ask(resident, 3600)
        assert raised.value.code is Code.UNAVAILABLE
        await until(lambda: resident.failure is not None)
        assert resident.failure is not None
        assert re.search(r"had no answer for \d s; it was killed", resident.failure.message)
        await until(lambda: resident.state is VersionState.PREPARED)
        assert resident.worker_pid != first

    run(main())


@pytest.mark.parametrize("asked", [True, False], ids=["asked, and its client has gone", "nobody asked it"])
def test_a_worker_that_stands_still_is_killed_and_replaced(
    run: Run, make_resident: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """Also when it is asked for its memory meanwhile, which it doesn't answer."""
    monkeypatch.setattr(windlass_server.hosting.resident, "_MEMORY_SECONDS", 0.0)
    models.half_plus_two(tmp_path)
    resident = make_resident("half_plus_two", settings=ResidentSettings(threads=1, stuck_after=2.5))

    async def main() -> None:
        await resident.prepare()
        first = resident.worker_pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        if asked:
            with pytest.raises(ServingError) as raised:
                await ask(resident, 2, wait=0.5)
            assert raised.value.code is Code.DEADLINE_EXCEEDED
            assert not resident.in_flight
        await until(lambda: resident.failure is not None)
        assert resident.failure is not None
        assert re.search(r"had no answer for \d s; it was killed", resident.failure.message)
        await until(lambda: resident.state is VersionState.PREPARED)
        assert resident.worker_pid != first
        assert await ask(resident, 2) == [3]

    run(main())


def test_large_tensors_run_concurrently(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.half_plus_two(tmp_path)
    resident = make_resident("half_plus_two")
    tensors = [np.full((5_000_000, 1), index, np.float32) for index in range(4)]

    async def main() -> None:
        await resident.prepare()
        answers = await asyncio.gather(
            *(resident.infer("serving_default", {"x": tensor}, timeout=DEADLINE) for tensor in tensors)
        )
        for index, answer in enumerate(answers):
            assert answer["y"].shape == (5_000_000, 1)
            assert np.all(answer["y"] == 0.5 * index + 2)

    run(main())


@pytest.mark.parametrize(
    ("signature", "inputs", "outputs", "code", "says"),
    [
        ("nope", ONE, None, Code.INVALID_ARGUMENT, 'Serving signature name: "nope" not found in signature def'),
        ("serving_default", {}, None, Code.INVALID_ARGUMENT, "the signature's inputs are ['x'], given were []"),
        (
            "serving_default",
            {"x": np.ones((1, 1))},
            None,
            Code.INVALID_ARGUMENT,
            "input 'x' has elements of FP32, given was FP64",
        ),
        (
            "serving_default",
            {"x": np.ones(3, np.float32)},
            None,
            Code.INVALID_ARGUMENT,
            "input 'x' has shape [-1, 1], given was [3]",
        ),
        (
            "serving_default",
            {"x": np.ones((2, 3), np.float32)},
            None,
            Code.INVALID_ARGUMENT,
            "input 'x' has shape [-1, 1], given was [2, 3]",
        ),
        ("serving_default", ONE, ["z"], Code.INVALID_ARGUMENT, "the outputs are ['y'], asked was for ['z']"),
        (
            "serving_default",
            {"x": np.ones((1000, 1), np.float32)},
            None,
            Code.PAYLOAD_TOO_LARGE,
            "at most 2000 are taken",
        ),
        (
            "regress_x_to_y",
            {"inputs": np.array([b"junk"], dtype=object)},
            None,
            Code.INVALID_ARGUMENT,
            "Name: <unknown>, Feature: x (data type: float) is required but could not be found.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_says_why(
    run: Run,
    make_resident: Make,
    tmp_path: Path,
    signature: str,
    inputs: Any,
    outputs: list[str] | None,
    code: Code,
    says: str,
) -> None:
    models.half_plus_two(tmp_path)
    resident = make_resident("half_plus_two", settings=ResidentSettings(threads=1, max_request_bytes=2000))
    run(resident.prepare())
    with pytest.raises(ServingError) as raised:
        run(resident.infer(signature, inputs, outputs, timeout=DEADLINE))
    assert raised.value.code is code
    assert says in raised.value.message
    assert run(ask(resident, 4)) == [4]


def test_an_answer_beyond_the_bound_is_an_error_of_that_request(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.half_plus_two(tmp_path)
    resident = make_resident("half_plus_two", settings=ResidentSettings(threads=1, max_answer_bytes=4000))
    run(resident.prepare())
    with pytest.raises(ServingError) as raised:
        run(ask(resident, *range(5000)))
    assert raised.value.code is Code.INTERNAL
    assert "at most 4000 are sent" in raised.value.message
    assert run(ask(resident, 4)) == [4]


def test_unloading_gives_the_memory_back(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.affine(tmp_path, "m", 1, 2, 1, ballast_mb=100)
    shared_before = set(os.listdir("/dev/shm"))  # noqa: PTH208
    resident = make_resident("m")
    run(resident.prepare())
    pid = resident.worker_pid
    assert pid is not None
    assert (resident.memory_bytes or 0) > 100 * 1024 * 1024
    scratch = Path(f"/proc/{pid}/cwd").readlink()
    run(resident.unload())
    assert not exists(pid)
    assert resident.memory_bytes is None
    run(until(lambda: not scratch.exists()))
    ours = {name for name in set(os.listdir("/dev/shm")) - shared_before if str(pid) in name}  # noqa: PTH208
    assert not ours
    with pytest.raises(ServingError) as raised:
        run(ask(resident, 1))
    assert raised.value.code is Code.UNAVAILABLE


def test_a_version_is_forked_and_loaded_quickly_from_a_ready_template(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.half_plus_two(tmp_path)
    times = []
    for _ in range(3):
        resident = make_resident("half_plus_two")
        started = time.monotonic()
        run(resident.prepare())
        times.append(time.monotonic() - started)
        run(resident.unload())
    # Importing TensorFlow alone takes longer than this; the best of three, since others use the machine too.
    assert min(times) < 4


def test_a_request_that_waits_behind_one_that_hangs_is_the_versions_fault_too(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.slow(tmp_path, "slow", 1)
    slow = make_resident("slow", settings=ResidentSettings(threads=1))

    async def main() -> None:
        await slow.prepare()
        # One runs, one is next in the worker; the others have no turn.
        hanging = [asyncio.create_task(ask(slow, 60)) for _ in range(2)]
        await until(lambda: slow.in_flight == 2)
        with pytest.raises(NoAnswerInTimeError) as caught:
            await ask(slow, 0, wait=1)
        assert caught.value.own_share == 1.0
        for each in hanging:
            each.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    run(main())
