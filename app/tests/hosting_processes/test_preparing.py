"""How versions are prepared, and every reason why they can't be. Real models in real workers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windlass_contract.artifact import read_manifest
from windlass_contract.failures import Gate, Reason
from windlass_contract.manifest import DataType, Signature, TensorSpec
from windlass_contract.report import VersionState
from windlass_contract.samples import AcceptanceSamples
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.hosted_worker import HostedWorker
from windlass_server.hosting.launcher import Launcher
from windlass_server.hosting.preparation import Preparation, PreparationError, VersionSpec
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


def samples(*expected: tuple[float, float]) -> AcceptanceSamples:
    return AcceptanceSamples.model_validate(
        {"samples": [{"name": f"x={x:g}", "inputs": {"x": [x]}, "expect": {"values": [y]}} for x, y in expected]}
    )


class NoMemory:
    """A worker on a machine that has none left."""

    async def call(self, *_: Any, **__: Any) -> Any:
        raise ServingError(Code.RESOURCE_EXHAUSTED, "OOM when allocating tensor")

    run = call


@pytest.mark.parametrize("step", ["load", "run"])
def test_too_little_memory_is_no_verdict_on_the_version(tmp_path: Path, step: str) -> None:
    folder = models.half_plus_two(tmp_path)
    spec = VersionSpec("half_plus_two", 1, None, folder)
    preparation = Preparation(spec, Launcher(tmp_path), ResidentSettings(threads=1), lambda: None)
    manifest = read_manifest(folder).manifest
    preparation.found.signatures = dict(manifest.signatures)
    preparation.found.state = VersionState.LOADING if step == "load" else VersionState.WARMING_UP
    worker: Any = NoMemory()
    with pytest.raises(PreparationError) as raised:
        asyncio.run(preparation._load(worker, manifest) if step == "load" else preparation._warm_up(worker, manifest))
    assert raised.value.failure.reason is Reason.WONT_FIT
    assert not raised.value.failure.is_verdict


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
        Gate.OPERATIONS,
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
    assert "Check failed" in resident.failure.message


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


def test_a_replica_at_the_lowest_priority_loads_all_the_same(run: Run, launcher: Launcher, tmp_path: Path) -> None:
    """A worker may not raise its priority."""
    path = models.half_plus_two(tmp_path)

    async def main() -> None:
        worker = await HostedWorker.start(launcher, "tensorflow", path, ResidentSettings(threads=1), {})
        try:
            os.setpriority(os.PRIO_PROCESS, worker.pid, 19)
            head, _ = await worker.call({"op": "load"})
        finally:
            await worker.end(0)
        assert "serving_default" in head["signatures"]

    run(main())


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
    statistic = {resident.spec.model: resident.gates[4].statistic for resident in (plain, sampled)}
    assert statistic == {"plain": "2 runs; zeros were refused by serving_default", "sampled": "2 runs"}


def test_a_model_that_crashes_while_it_is_tested_fails(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.crashing_on_request(tmp_path, "m", 1)
    resident = make_resident("m", samples=samples((1, 1), (2000, 2000)))
    run(resident.prepare())
    assert resident.state is VersionState.FAILED
    assert resident.failure is not None
    assert (resident.failure.gate, resident.failure.reason) == (Gate.ACCEPTANCE, Reason.WORKER_CRASHED)
    assert "while its samples ran, the worker was ended by SIGABRT" in resident.failure.message
