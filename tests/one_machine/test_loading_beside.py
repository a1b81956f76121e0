"""A version that loads beside one that serves: how much slower requests get meanwhile, and what memory is left of it.

A machine that does other things besides has nothing left to load with, so these run alone. The bounds of the short form
are wide, those of the long one are what is promised.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

from windlass_testing.cpu_group import cpu_group
from windlass_testing.evidence import drawn, measured
from windlass_testing.open_loop import Shot
from windlass_testing.plots import Panel, svg
from windlass_testing.swaps import CAPACITY_CONNECTIONS, Swap, interval, swapping

SOAK = pytest.mark.soak
PROMISED = 1.2
PROMISED_UNDER_QUOTA = 3.0
WIDE = 10.0
"""What noise doesn't reach in the median of a few swaps; a load that stops what serves does."""
MIB = 2**20

pytestmark = [pytest.mark.hardening, pytest.mark.alone]


def told(swaps: Sequence[Swap], rate: float) -> str:
    """The figure of a run."""
    median, low, high = interval([swap.ratio for swap in swaps])
    before, beside = (
        statistics.median(values) for values in ([swap.before[1] for swap in swaps], [swap.beside[1] for swap in swaps])
    )
    return (
        f"p99 of the load window over that of the window before: median {median:.2f} (95 % interval {low:.2f} to "
        f"{high:.2f}); p99 {before * 1000:.1f} ms before, {beside * 1000:.1f} ms beside, at {rate:.0f} requests/s; a "
        f"load takes {statistics.median(swap.seconds for swap in swaps):.1f} s"
    )


def assert_nothing_lost(shots: Sequence[Shot], swaps: int) -> None:
    """All was answered, and the versions came one after the other."""
    assert [shot for shot in shots if shot.lost] == []
    assert {shot.version for shot in shots} == set(range(1, swaps + 2))


@pytest.mark.timeout(7200)  # each takes two load windows, and some seconds to pack
@pytest.mark.parametrize("count", [4, pytest.param(200, marks=SOAK)])
def test_a_version_that_loads_slows_nothing_and_leaves_no_memory_behind(tmp_path: Path, count: int) -> None:
    swaps: list[Swap] = []
    with swapping(tmp_path) as server:
        rate = server.capacity() / 2
        with server.load(rate) as load:
            for swap in server.swaps(load, count):
                print(swap, flush=True)
                swaps.append(swap)
    assert_nothing_lost(load.shots(), count)
    median, _, high = interval([swap.ratio for swap in swaps])
    if count < 200:
        print(told(swaps, rate))
        assert median < WIDE
        return
    # The same of the two models is resident after every other swap.
    memory = [swap.memory for swap in swaps[1::2]]
    early, late = statistics.median(memory[9:20]), statistics.median(memory[89:100])
    drawn(
        "swaps",
        svg(
            [
                Panel(
                    "p99 while the next version loads, over that of an equal window just before",
                    [swap.ratio for swap in swaps],
                    [(median, f"median {median:.2f}"), (PROMISED, f"promised {PROMISED}")],
                ),
                Panel(
                    "memory of all processes, idle, the same model resident (MiB)",
                    [size / MIB for size in memory],
                    [(early / MIB, "median of swaps 20 to 40")],
                ),
            ],
            f"swap (the lower panel: every other of {count})",
        ),
    )
    what = f"{count} swaps between two MobileNetV2 in one replica, open-loop load at half of the measured capacity"
    measured("load-beside", what, told(swaps, rate), "make soak")
    measured(
        "memory",
        f"{what}: PSS of all processes but for files, and /dev/shm, idle, same model resident",
        f"median of swaps 20 to 40 {early / MIB:.1f} MiB, of swaps 180 to 200 {late / MIB:.1f} MiB "
        f"({(late / early - 1) * 100:+.2f} %)",
        "make soak",
    )
    assert late / early < 1.02
    assert high < PROMISED


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [2, pytest.param(20, marks=SOAK)])
@pytest.mark.parametrize("cpus", [1.0, 1.5])
def test_under_a_cpu_quota_the_loader_leaves_enough_for_what_serves(tmp_path: Path, cpus: float, count: int) -> None:
    swaps: list[Swap] = []
    with cpu_group(cpus) as within, swapping(tmp_path, within) as server:
        rate = server.capacity() / 2
        with server.load(rate) as load:
            for swap in server.swaps(load, count):
                print(swap, flush=True)
                swaps.append(swap)
    assert_nothing_lost(load.shots(), count)
    median, _, high = interval([swap.ratio for swap in swaps])
    if count < 20:
        print(told(swaps, rate))
        assert median < WIDE
        return
    what = f"{count} swaps under a CPU quota of {cpus:g} cores, load at half of the capacity under it"
    measured("load-beside", what, told(swaps, rate), "make soak")
    assert high < PROMISED_UNDER_QUOTA


@pytest.mark.timeout(1800)
@SOAK
def test_under_saturation_a_version_still_goes_live_and_nothing_is_lost(tmp_path: Path) -> None:
    """How much slower it gets is printed only: there is nothing left to load with."""
    count = 10
    swaps: list[Swap] = []
    with swapping(tmp_path) as server, server.load(0, CAPACITY_CONNECTIONS) as load:
        for swap in server.swaps(load, count):
            print(swap, flush=True)
            swaps.append(swap)
    assert_nothing_lost(load.shots(), count)
    rate = len(load.shots()) / sum(2 * swap.seconds for swap in swaps)
    measured(
        "load-beside",
        f"{count} swaps under saturation, {CAPACITY_CONNECTIONS} requests at all times; nothing is promised",
        told(swaps, rate),
        "make soak",
    )
