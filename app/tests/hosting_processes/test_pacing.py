"""What is prepared beside what serves is held to a share of the processors' time, where there is a quota."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windlass_server.hosting.background import in_background
from windlass_server.hosting.cpus import cpu_quota
from windlass_server.hosting.pacing import BURST_SECONDS, Allowance, Pacer
from windlass_server.hosting.resident import Resident, ResidentSettings
from windlass_testing.models import affine, slow

QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"
HALF_A_SECOND = {"x": np.full((1, 1), 0.5, np.float32)}
Run = Callable[..., Any]


def test_an_allowance_runs_stops_and_pays_back() -> None:
    allowance = Allowance(rate=0.25, now=0.0, used=10.0)
    for now, used, running, wait in (
        (0.0, 10.0, True, 0.004),
        (0.004, 10.0045, False, 0.010),  # a burst is used up, and a little more; it fills at a quarter
        (0.010, 10.0045, False, 0.004),  # half of one is worth going on for
        (0.016, 10.0045, True, 0.0025),
        (0.018, 10.0065, True, 0.001),
        (9.0, 10.0065, True, 0.004),  # idle time isn't saved up beyond a burst
        (9.004, 10.0565, False, 0.192),  # several threads: all of it is paid back
    ):
        assert allowance.look(now, used) == pytest.approx(wait), now
        assert allowance.running is running, now
    assert pytest.approx(0.004) == BURST_SECONDS


def cpu(pid: int) -> float:
    return time.clock_gettime((~pid << 3) | 2)


def test_a_process_is_held_to_its_share_and_let_go() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    watch = os.pidfd_open(busy.pid)
    try:
        pacer = Pacer()
        pacer.hold(busy.pid, watch, 0.1)
        began, used = time.monotonic(), cpu(busy.pid)
        while time.monotonic() - began < 2:
            time.sleep(pacer.look() or 0)  # as long as it says: the launcher's way of waiting is what is tested
        share = (cpu(busy.pid) - used) / (time.monotonic() - began)
        assert share < 0.15
        pacer.let_go(busy.pid)
        assert pacer.look() is None
        used = cpu(busy.pid)
        while cpu(busy.pid) - used < 0.1:  # it runs again: the test's timeout bounds this
            time.sleep(0.01)  # a process tells nobody that it has used the processor
    finally:
        busy.kill()
        busy.wait()
        os.close(watch)


def test_work_in_the_background_is_held_to_its_share(run: Run) -> None:
    def work(check: Callable[[], None]) -> float:
        began = time.monotonic()
        while time.thread_time() < 0.1:
            check()
        return time.monotonic() - began

    assert run(in_background(work, 0.2)) > 0.4


def test_a_version_is_prepared_at_full_pace_alone_and_held_back_beside_one_that_serves(
    run: Run, make_resident: Callable[..., Resident], tmp_path: Path
) -> None:
    for version in (1, 2):
        slow(tmp_path, "m", version)
    settings = ResidentSettings(threads=2, preparing_cpus=0.2)
    for version in (1, 2):
        resident = make_resident("m", version, settings=settings)
        _, seconds = run(states_during(resident.prepare, resident))
        assert resident.worker_pid is not None
        if version == 2:
            assert cpu(resident.worker_pid) / seconds < 0.3
        infer = functools.partial(resident.infer, "serving_default", HALF_A_SECOND, timeout=30)
        states, _ = run(states_during(infer, resident))
        assert "T" not in states, "it serves, and is held back no more"
        assert len(states) > 5


@pytest.mark.parametrize("asked", [True, False])
def test_without_a_quota_a_version_is_held_back_only_while_requests_come_to_another(
    run: Run, make_resident: Callable[..., Resident], tmp_path: Path, asked: bool
) -> None:
    for version in (1, 2):
        slow(tmp_path, "m", version)
    settings = ResidentSettings(threads=2, preparing_cpus=None, preparing_cpus_beside_requests=0.2)
    first, second = (make_resident("m", version, settings=settings) for version in (1, 2))
    run(first.prepare())
    if asked:
        run(first.infer("serving_default", HALF_A_SECOND, timeout=30))
    states, _ = run(states_during(second.prepare, second))
    assert second.state.value == "Prepared", second.failure
    assert ("T" in states) is asked


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_load_that_needs_more_than_its_share_is_let_go_before_its_deadline(
    run: Run, make_resident: Callable[..., Resident], tmp_path: Path
) -> None:
    for version in (1, 2):
        affine(tmp_path, "m", version, 2, 0)
    run(make_resident("m", 1).prepare())
    # At this share it would take a minute.
    second = make_resident("m", 2, settings=ResidentSettings(threads=2, preparing_cpus=0.005, load_deadline=24))
    run(second.prepare())
    assert second.state.value == "Prepared", second.failure


def test_a_replica_that_was_made_nicer_than_a_load_is_still_loads(tmp_path: Path) -> None:
    affine(tmp_path, "m", 1, 2, 1)
    program = f"""
import asyncio
from pathlib import Path
from windlass_server.hosting.launcher import Launcher
from windlass_server.hosting.resident import Resident, ResidentSettings, VersionSpec

async def main():
    launcher = Launcher(Path({str(tmp_path)!r}, "scratch"))
    spec = VersionSpec("m", 1, None, Path({str(tmp_path)!r}, "m", "1"))
    resident = Resident(spec, launcher, ResidentSettings(threads=1), lambda _: None)
    await resident.prepare()
    print(resident.state.value, resident.failure)
    await resident.unload()
    await launcher.close()

asyncio.run(main())
"""
    command = ["nice", "-n", "19", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.stdout.strip() == "Prepared None", done.stderr


async def states_during(act: Callable[[], Any], resident: Resident) -> tuple[list[str], float]:
    """What state the kernel says the resident's worker to be in, again and again; and how long the act took."""
    began = time.monotonic()
    task = asyncio.ensure_future(act())
    states = []
    while not task.done():
        await asyncio.wait([task], timeout=0.02)
        if (worker := resident._present_worker) is not None:
            states.append(state(worker.pid))
    await task
    return states, time.monotonic() - began


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"cpu.max": "max 100000\n", "a/cpu.max": "50000 100000", "a/b/cpu.max": "200000 100000"}, 0.5),
        ("0::/not/seen/from/here\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("3:memory:/x\n1:cpu,cpuacct:/d/1\n0::/\n", {f"cpu/{QUOTA}": "100000", f"cpu/{PERIOD}": "100000"}, 1.0),
        ("1:cpu:/t\n", {f"cpu/t/{QUOTA}": "-1", f"cpu/t/{PERIOD}": "100000"}, None),
        ("1:memory:/t\n", {}, None),
    ],
)  # fmt: skip
def test_the_quota_is_the_smallest_of_the_groups_that_it_is_in(
    tmp_path: Path, own: str, files: dict[str, str], quota: float | None
) -> None:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "own") == quota
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "nothing") is None
