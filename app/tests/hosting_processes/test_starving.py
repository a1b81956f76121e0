"""Versions that are prepared only while nobody else wants a processor, and what becomes of one that never gets any."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windlass_contract.report import VersionState
from windlass_server.hosting import starving
from windlass_server.hosting.launcher import Launcher
from windlass_server.hosting.resident import Resident
from windlass_server.hosting.starving import StarvedError, unless_starved
from windlass_testing import models
from windlass_testing.one_machine import wait_until

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Make = Callable[..., Resident]
LOOK = 0.05


class Worker:
    """One that has been at something for ever, or at nothing, and gets a share of a processor."""

    def __init__(self, *, busy: bool, share: float) -> None:
        self.oldest_seconds = 3600.0 if busy else 0.0
        self._share = share

    @property
    def processor_seconds(self) -> float:
        return time.monotonic() * self._share


@pytest.mark.parametrize(
    ("busy", "share", "cpus", "within", "starves"),
    [
        (True, 0.0, None, 60, True),
        (True, 0.01, None, 60, True),
        (True, 0.5, None, 60, False),
        (True, 0.05, 0.05, 60, False),  # all that it may have
        (True, 0.001, 0.05, 60, True),
        (False, 0.0, None, 60, False),  # its files are verified meanwhile, which isn't its work
        (True, 0.5, None, 0.1, True),  # it would miss its deadline
    ],
)
def test_who_has_work_and_gets_no_processor_starves(
    monkeypatch: pytest.MonkeyPatch, busy: bool, share: float, cpus: float | None, within: float, starves: bool
) -> None:
    monkeypatch.setattr(starving, "LOOK_SECONDS", LOOK)

    async def main() -> str:
        cancelled = asyncio.Event()

        async def work() -> str:
            try:
                await asyncio.sleep(5 * LOOK)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return "done"

        try:
            return await unless_starved(work(), Worker(busy=busy, share=share), cpus, within)
        except StarvedError:
            assert cancelled.is_set()
            return "starved"

    assert asyncio.run(main()) == ("starved" if starves else "done")


def test_what_goes_wrong_with_the_work_is_told() -> None:
    async def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        asyncio.run(unless_starved(work(), Worker(busy=False, share=1), None, 60))


ROW = {"x": np.ones((1, 1), np.float32)}
IMAGE = {"x": np.zeros((1, 96, 96, 3), np.uint8)}


async def asked(resident: Resident, inputs: dict[str, Any] = ROW) -> None:
    """Somebody is served, and not to feel what comes next."""
    await resident.infer("serving_default", inputs, timeout=30)


def policies(pid: int) -> set[int]:
    """Of all threads of a process."""
    return {os.sched_getscheduler(int(each.name)) for each in Path(f"/proc/{pid}/task").iterdir()}


def pid_of(resident: Resident) -> int:
    worker = resident._present_worker
    assert worker is not None
    return worker.pid


@pytest.mark.parametrize("make", [models.affine_v1, models.affine_tflite])
def test_a_version_that_was_prepared_when_idle_serves_at_the_priority_of_any_other(
    run: Run, make_resident: Make, tmp_path: Path, make: Callable[..., Path]
) -> None:
    """Threads inherit it: none of the runtime's own may come of the one that prepares."""
    residents = []
    for version in (1, 2):
        make(tmp_path, "m", version, 2.0, 1.0)
        residents.append(make_resident("m", version))
        run(residents[-1].prepare())
        assert residents[-1].state is VersionState.PREPARED
        run(asked(residents[-1]))
    # The thread that prepared has said so before it was gone, and ends when somebody leaves it a processor.
    wait_until("only its own threads are left", lambda: policies(pid_of(residents[1])) == {os.SCHED_OTHER})


def test_while_one_is_asked_the_next_one_is_loaded_when_idle(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.affine(tmp_path, "m", 1, 2, 1)
    models.affine(tmp_path, "m", 2, 2, 1, load_seconds=2)
    first, following = make_resident("m", 1), make_resident("m", 2)
    run(first.prepare())
    run(asked(first))

    async def main() -> set[int]:
        preparing = asyncio.create_task(following.prepare())
        seen: set[int] = set()
        while not preparing.done():
            if following.state is VersionState.LOADING and following._present_worker is not None:
                seen |= policies(pid_of(following))
            await asyncio.sleep(0.02)  # between two looks: the kernel tells nobody of a thread's policy
        return seen

    assert run(main()) == {os.SCHED_OTHER, os.SCHED_IDLE}
    assert following.state is VersionState.PREPARED


@contextmanager
def no_processor_left() -> Iterator[None]:
    """Somebody uses each processor without end."""
    spin = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    with ExitStack() as stack:
        for cpu in os.sched_getaffinity(0):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", spin, str(cpu)]))
            stack.callback(process.kill)
        yield


def test_where_requests_leave_no_processor_a_version_gets_ready_all_the_same(
    run: Run, launcher: Launcher, make_resident: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for version in (1, 2):
        models.network(tmp_path, "m", version, version)
    first, following = make_resident("m", 1), make_resident("m", 2)
    run(first.prepare())
    run(asked(first, IMAGE))
    with no_processor_left(), caplog.at_level("INFO"):
        run(following.prepare())
    assert following.state is VersionState.PREPARED
    assert "requests leave no processor to load it with" in caplog.text
    assert policies(pid_of(following)) == {os.SCHED_OTHER}
