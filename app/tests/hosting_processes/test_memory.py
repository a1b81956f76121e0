"""What is left of a memory limit, and which version fits into it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from windlass_contract.manifest import DataType, FileEntry, Manifest, ModelFormat, Signature, TensorSpec
from windlass_server.hosting.memory import (
    MIB,
    WORKER_BYTES,
    Folder,
    Level,
    Room,
    folders,
    kill_first,
    lack,
    need_of,
    next_look,
    parse_meminfo,
    parse_v1,
    parse_v2,
)

COLUMN = TensorSpec(datatype=DataType.FP32, shape=[-1, 1])
SIGNATURES = {"serving_default": Signature(inputs={"x": COLUMN}, outputs={"y": COLUMN})}
STAT_V2 = "anon 300\nfile 700\ninactive_file 400\nactive_file 200\nfile_mapped 150\nshmem 100\n"
STAT_V1 = "cache 9\ninactive_file 1\ntotal_inactive_file 400\ntotal_active_file 200\ntotal_mapped_file 150\n"


def manifest(size: int, memory_bytes: int | None = None) -> Manifest:
    extra = {} if memory_bytes is None else {"memory_bytes": memory_bytes}
    files = [FileEntry(path="saved_model.pb", size=size, sha256="0" * 64)]
    return Manifest(model="m", version=3, format=ModelFormat.SAVED_MODEL, files=files, signatures=SIGNATURES, **extra)


@pytest.mark.parametrize(
    ("most", "high", "limit"),
    [("5000\n", "max\n", 5000), ("5000\n", "4000\n", 4000), ("max\n", "4000\n", 4000), ("max\n", "max\n", None)],
)
def test_version_2_has_two_limits_of_which_the_lower_one_counts(most, high, limit):
    level = parse_v2("1000\n", {"memory.max": most, "memory.high": high}, STAT_V2, "s")
    assert (level and level.limit) == limit


def test_cached_files_are_left_but_not_those_that_programs_run_from():
    two = parse_v2("1000\n", {"memory.max": "5000\n", "memory.high": "max\n"}, STAT_V2, "s")
    one = parse_v1("1000\n", "5000\n", STAT_V1, "s")
    assert two == one == Level(5000, 1000, 450, "s")
    assert one.left == 4450


def test_version_1_says_no_limit_by_a_huge_number():
    assert parse_v1("1000\n", "9223372036854771712\n", STAT_V1, "s") is None


def test_the_machine_has_a_limit_too():
    level = parse_meminfo("MemTotal:  2000 kB\nMemFree: 10 kB\nMemAvailable:  500 kB\nHugePages_Total:  0\n")
    assert (level.limit, level.left) == (2000 * 1024, 500 * 1024)


V1_MOUNT = "31 24 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"


@pytest.mark.parametrize(
    ("case", "cgroup", "mountinfo", "found"),
    [
        ("v2 with a namespace", "0::/", V2_MOUNT, [(True, "/sys/fs/cgroup")]),
        (
            "v2 without one: those above count too",
            "0::/a/b",
            V2_MOUNT,
            [(True, "/sys/fs/cgroup/a/b"), (True, "/sys/fs/cgroup/a"), (True, "/sys/fs/cgroup")],
        ),
        (
            "v1",
            "4:memory:/a\n1:cpu:/z\n0::/",
            V1_MOUNT,
            [(False, "/sys/fs/cgroup/memory/a"), (False, "/sys/fs/cgroup/memory")],
        ),
        (
            "v1 whose mount shows only the container's own",
            "4:memory:/docker/123",
            V1_MOUNT.replace(" / ", " /docker/123 ", 1),
            [(False, "/sys/fs/cgroup/memory")],
        ),
        ("v1 of another controller", "4:memory:/a", V1_MOUNT.replace("memory", "cpu"), []),
        ("nothing", "", "", []),
    ],
)
def test_where_the_limits_are_read(case, cgroup, mountinfo, found):
    assert folders(cgroup, mountinfo) == [Folder(Path(path), v2) for v2, path in found], case


def test_the_need_is_what_was_measured_else_guessed_from_the_files():
    assert need_of(manifest(10, memory_bytes=100 * MIB)) == 120 * MIB
    assert need_of(manifest(100 * MIB)) == 200 * MIB + WORKER_BYTES


@pytest.mark.parametrize(("used", "fits"), [(680, True), (681, False), (2000, False)])
def test_a_version_fits_if_the_reserve_stays_free(used, fits):
    level = Level(1000 * MIB, used * MIB, 0, "limit of the container")
    message = lack(manifest(0, memory_bytes=200 * MIB), level, 80 * MIB)
    assert (message is None) is fits
    if message is not None:
        for said in ("version 3 of model m", "240 MiB", "of 1000 MiB", "limit of the container", "Restart", "limit"):
            assert said in message


def test_here_something_is_left():
    level = Room(0).level()
    assert 0 < level.left <= level.limit


@pytest.mark.parametrize(("margin", "seconds"), [(8 << 30, 0.25), (1 << 30, 0.25), (1 << 29, 0.125), (0, 0.005)])
def test_the_less_is_left_the_sooner_it_looks_again(margin, seconds):
    assert next_look(margin) == seconds


def test_the_kernels_first_choice_is_marked_and_unmarked():
    with subprocess.Popen(["sleep", "60"]) as process:
        score = Path(f"/proc/{process.pid}/oom_score_adj")
        before = score.read_text()
        undo = kill_first(process.pid)
        assert score.read_text() == "900\n"
        undo()
        assert score.read_text() == before
        process.kill()
