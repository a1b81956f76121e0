"""The life of versions, with real models in real workers."""

from __future__ import annotations

import asyncio
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

from windlass_contract.failures import Gate, Reason
from windlass_contract.manifest import DataType, Signature, TensorSpec
from windlass_contract.report import VersionState
from windlass_contract.samples import AcceptanceSamples
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.resident import Resident, ResidentSettings
from windlass_testing import models

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Make = Callable[..., Resident]
DEADLINE = 90
ONE = {"x": np.ones((1, 1), np.float32)}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - other processes set no event here
            await asyncio.sleep(0.02)


def column(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32).reshape(-1, 1)


async def ask(resident: Resident, *values: float, wait: float = DEADLINE) -> list[float]:
    answer = await resident.infer("serving_default", {"x": column(*values)}, timeout=wait)
    return [float(value) for value in next(iter(answer.values())).ravel()]


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def samples(*expected: tuple[float, float]) -> AcceptanceSamples:
    return AcceptanceSamples.model_validate(
        {"samples": [{"name": f"x={x:g}", "inputs": {"x": [x]}, "expect": {"values": [y]}} for x, y in expected]}
    )


def test_a_good_version_goes_through_all_states_and_answers(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.half_plus_two(
        tmp_path,
        parity={"serving_default": ({"x": column(1, 2)}, {"y": column(2.5, 3)})},
        warmup_batch_sizes=[1, 4],
    )
    seen: list[str] = []
    resident = make_resident("half_plus_two", seen=seen, samples=samples((0, 2), (4, 4)))
    run(resident.prepare())
    assert seen == ["Verifying", "Loading", "WarmingUp", "Testing", "Prepared"]
    report = resident.report()
    assert report.failure is None
    assert [gate.gate for gate in report.gates] == [
        Gate.DIGEST,
        Gate.LOAD,
        Gate.SIGNATURE,
        Gate.WARM_UP,
        Gate.PARITY,
        Gate.ACCEPTANCE,
    ]
    assert all(gate.passed for gate in report.gates)
    assert report.gates[-1].statistic == "score 1 of 1 (2 of 2 samples)"
    assert report.digest == resident.manifest.digest()  # type: ignore[union-attr]
    assert report.signatures == models.AFFINE_SIGNATURES
    assert 1_000_000 < (report.memory_bytes or 0) < 500_000_000
    assert run(ask(resident, 1, 2, 5)) == [2.5, 3, 4.5]


def corrupt(folder: Path) -> None:
    (folder / "saved_model.pb").write_bytes((folder / "saved_model.pb").read_bytes()[:-1] + b"\0")


def cut(folder: Path) -> None:
    (folder / "saved_model.pb").write_bytes((folder / "saved_model.pb").read_bytes()[:-1])


def add(folder: Path) -> None:
    (folder / "stray").write_text("")


@pytest.mark.parametrize(
    ("damage", "reason", "file"),
    [
        (corrupt, Reason.FILE_DIGEST_MISMATCH, "saved_model.pb"),
        (cut, Reason.FILE_SIZE_MISMATCH, "saved_model.pb"),
        (add, Reason.FILE_UNLISTED, "stray"),
        (lambda folder: (folder / "saved_model.pb").unlink(), Reason.FILE_MISSING, "saved_model.pb"),
        (lambda folder: (folder / "manifest.json").unlink(), Reason.MANIFEST_MISSING, "manifest.json"),
        (lambda folder: folder.rename(folder.with_name("gone")), Reason.NOT_FOUND, None),
        (
            lambda folder: models.write_manifest(folder, "another", 1, models.AFFINE_SIGNATURES),
            Reason.MANIFEST_MISMATCH,
            "manifest.json",
        ),
    ],
)
def test_files_that_are_not_as_declared_are_waited_for_and_never_loaded(
    run: Run, make_resident: Make, tmp_path: Path, damage: Callable[[Path], Any], reason: Reason, file: str | None
) -> None:
    damage(models.half_plus_two(tmp_path))
    seen: list[str] = []
    resident = make_resident("half_plus_two", seen=seen)
    run(resident.prepare())
    assert seen == ["Verifying", "Waiting"]
    assert resident.failure is not None
    assert (resident.failure.reason, resident.failure.file) == (reason, file)
    assert not resident.failure.is_verdict


def test_a_version_that_was_waited_for_is_prepared_once_its_files_are_there(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    folder = models.half_plus_two(tmp_path)
    folder.rename(tmp_path / "elsewhere")
    resident = make_resident("half_plus_two")
    run(resident.prepare())
    assert resident.state is VersionState.WAITING
    (tmp_path / "elsewhere").rename(folder)
    run(resident.prepare())
    assert resident.state is VersionState.PREPARED
    assert resident.failure is None


def test_another_digest_than_the_declared_one_is_refused(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.half_plus_two(tmp_path)
    resident = make_resident("half_plus_two", digest="sha256:" + "0" * 64)
    run(resident.prepare())
    assert resident.failure is not None
    assert resident.failure.reason is Reason.DIGEST_MISMATCH


@pytest.mark.parametrize("file", ["saved_model.pb", "windlass/parity/serving_default.npz"])
def test_files_that_change_while_they_are_loaded_are_no_verdict_whether_the_load_fails_or_not(
    run: Run, make_resident: Make, tmp_path: Path, file: str
) -> None:
    parity = {"serving_default": ({"x": column(1)}, {"y": column(3)})}
    folder = models.affine(tmp_path, "m", 1, 2, 1, load_seconds=3, parity=parity)
    resident = make_resident("m")

    async def main() -> None:
        preparing = asyncio.create_task(resident.prepare())
        await until(lambda: resident.state is VersionState.LOADING)
        (folder / file).write_bytes((folder / file).read_bytes()[:-1] + b"\xee")
        await preparing

    run(main())
    assert resident.state is VersionState.WAITING
    assert resident.failure is not None
    assert (resident.failure.reason, resident.failure.file) == (Reason.FILE_DIGEST_MISMATCH, file)


def test_a_model_that_cannot_be_loaded_fails_with_what_the_framework_says(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.unloadable(tmp_path, "m", 1)
    resident = make_resident("m")
    run(resident.prepare())
    assert resident.state is VersionState.FAILED
    assert resident.failure is not None
    assert (resident.failure.gate, resident.failure.reason) == (Gate.LOAD, Reason.LOAD_FAILED)
    assert "Read less bytes than requested" in resident.failure.message
    assert resident.failure.is_verdict


def test_a_model_that_crashes_at_load_fails_with_the_signal_and_its_last_words(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.crashing_at_load(tmp_path, "m", 1)
    resident = make_resident("m")
    run(resident.prepare())
    assert resident.state is VersionState.FAILED
    assert resident.failure is not None
    assert (resident.failure.gate, resident.failure.reason) == (Gate.LOAD, Reason.WORKER_CRASHED)
    assert "was ended by SIGABRT" in resident.failure.message
    assert "the model aborts at load" in resident.failure.message


def test_a_load_beyond_its_deadline_is_no_verdict_and_leaves_no_worker(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.affine(tmp_path, "m", 1, 2, 1, load_seconds=3600)
    resident = make_resident("m", settings=ResidentSettings(threads=2, load_deadline=0.5))
    run(resident.prepare())
    assert resident.state is VersionState.WAITING
    assert resident.failure is not None
    assert resident.failure.reason is Reason.LOAD_DEADLINE_EXCEEDED
    assert "still Loading" in resident.failure.message
    assert workers_with(tmp_path) == []


def workers_with(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text() == "windlass-worker\n":
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [pid for pid in found if pid in _ours(found)] if folder else found


def _ours(pids: list[int]) -> set[int]:
    """Those of this test process: their launcher is its child."""

    def parent(pid: int) -> int:
        try:
            return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return 0

    return {pid for pid in pids if parent(parent(pid)) == os.getpid()}


def test_a_load_that_is_cancelled_leaves_no_worker_and_can_be_tried_again(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.affine(tmp_path, "m", 1, 2, 1, load_seconds=1)
    resident = make_resident("m")

    async def main() -> None:
        preparing = asyncio.create_task(resident.prepare())
        await until(lambda: bool(workers_with(tmp_path)))
        preparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await preparing

    run(main())
    assert resident.state is VersionState.WAITING
    assert workers_with(tmp_path) == []
    run(resident.prepare())
    assert resident.state is VersionState.PREPARED


def test_a_worker_that_is_killed_from_outside_while_it_loads_is_no_verdict(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.affine(tmp_path, "m", 1, 2, 1, load_seconds=3600)
    resident = make_resident("m")

    async def main() -> None:
        preparing = asyncio.create_task(resident.prepare())
        await until(lambda: bool(workers_with(tmp_path)))
        for pid in workers_with(tmp_path):
            os.kill(pid, signal.SIGKILL)
        await preparing

    run(main())
    assert resident.state is VersionState.WAITING
    assert resident.failure is not None
    assert resident.failure.reason in {Reason.WORKER_LOST, Reason.RUNTIME_UNAVAILABLE}
    assert not resident.failure.is_verdict


def _lie(**inputs: TensorSpec) -> dict[str, Signature]:
    return {"serving_default": Signature(inputs=inputs, outputs=models.AFFINE_SIGNATURES["serving_default"].outputs)}


@pytest.mark.parametrize(
    ("signatures", "says"),
    [
        (_lie(x=TensorSpec(datatype=DataType.FP64, shape=[-1, 1])), "promised as FP64 [-1, 1], the model has FP32"),
        (_lie(x=TensorSpec(datatype=DataType.FP32, shape=[-1, 2])), "the model has FP32 [-1, 1]"),
        (_lie(z=TensorSpec(datatype=DataType.FP32, shape=[-1, 1])), "the model's are ['x']"),
        ({"other": models.AFFINE_SIGNATURES["serving_default"]}, "promises a signature 'other'"),
        (
            {"classify_x_to_y": models.AFFINE_SIGNATURES["classify_x_to_y"].model_copy(update={"method": "predict"})},
            "promised for predict, the model has it for classify",
        ),
    ],
)
def test_a_manifest_that_lies_about_the_signatures_fails(
    run: Run, make_resident: Make, tmp_path: Path, signatures: dict[str, Signature], says: str
) -> None:
    models.half_plus_two(tmp_path, signatures=signatures)
    resident = make_resident("half_plus_two")
    run(resident.prepare())
    assert resident.state is VersionState.FAILED
    assert resident.failure is not None
    assert (resident.failure.gate, resident.failure.reason) == (Gate.SIGNATURE, Reason.SIGNATURE_MISMATCH)
    assert says in resident.failure.message


def test_parity_samples_with_other_answers_fail(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.half_plus_two(tmp_path, parity={"serving_default": ({"x": column(1, 2)}, {"y": column(2.5, 3.1)})})
    resident = make_resident("half_plus_two")
    run(resident.prepare())
    assert resident.state is VersionState.FAILED
    assert resident.failure is not None
    assert resident.failure.reason is Reason.PARITY_FAILED
    assert "output 'y': 1 of 2 values differ, the first at [1, 0]: expected 3.1, got 3" in resident.failure.message


@pytest.mark.parametrize(("min_score", "state"), [(1000, VersionState.FAILED), (666, VersionState.PREPARED)])
def test_acceptance_samples_are_scored(
    run: Run, make_resident: Make, tmp_path: Path, min_score: int, state: VersionState
) -> None:
    models.half_plus_two(tmp_path)
    resident = make_resident("half_plus_two", samples=samples((0, 2), (4, 4), (8, 7)), min_score=min_score)
    run(resident.prepare())
    assert resident.state is state
    assert resident.gates[-1].gate is Gate.ACCEPTANCE
    assert resident.gates[-1].statistic == f"score 0.667 of {min_score / 1000:g} (2 of 3 samples)"
    if state is VersionState.FAILED:
        assert resident.failure is not None
        assert resident.failure.reason is Reason.ACCEPTANCE_FAILED
        assert "x=8: 1 of 1 values differ, the first at [0]: expected 7, got 6" in resident.failure.message


def test_samples_that_do_not_fit_the_model_are_not_its_fault(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.half_plus_two(tmp_path)
    resident = make_resident(
        "half_plus_two",
        samples=AcceptanceSamples.model_validate({"samples": [{"inputs": {"z": [1]}, "expect": {"values": [1]}}]}),
    )
    run(resident.prepare())
    assert resident.state is VersionState.WAITING
    assert resident.failure is not None
    assert resident.failure.reason is Reason.SAMPLES_UNAVAILABLE


def test_a_model_that_refuses_zeros_is_warmed_up_with_its_own_samples(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.refusing(tmp_path, "plain", 1)
    models.refusing(tmp_path, "sampled", 1, parity={"serving_default": ({"x": column(1)}, {"y": column(1)})})
    plain, sampled = make_resident("plain"), make_resident("sampled")
    run(plain.prepare())
    run(sampled.prepare())
    assert plain.state is sampled.state is VersionState.PREPARED
    statistic = {resident.spec.model: resident.gates[3].statistic for resident in (plain, sampled)}
    assert statistic == {"plain": "2 runs; zeros were refused by serving_default", "sampled": "2 runs"}


def test_a_model_that_crashes_while_it_is_tested_fails(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.crashing_on_request(tmp_path, "m", 1)
    resident = make_resident("m", samples=samples((1, 1), (2000, 2000)))
    run(resident.prepare())
    assert resident.state is VersionState.FAILED
    assert resident.failure is not None
    assert (resident.failure.gate, resident.failure.reason) == (Gate.ACCEPTANCE, Reason.WORKER_CRASHED)
    assert "while its samples ran, the worker was ended by SIGABRT" in resident.failure.message


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
