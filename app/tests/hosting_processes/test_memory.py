"""What is left of a memory limit, and which version fits into it."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from windlass_contract.failures import Reason
from windlass_contract.manifest import DataType, FileEntry, Manifest, ModelFormat, Signature, TensorSpec
from windlass_server.hosting.hosted_worker import ResidentSettings, WorkerEnd
from windlass_server.hosting.launcher import WorkerExit
from windlass_server.hosting.memory import (
    MIB,
    PAGE,
    WORKER_BYTES,
    Folder,
    Level,
    Room,
    folders,
    kill_first,
    lack,
    need_of,
    next_look,
    own_bytes,
    parse_meminfo,
    parse_v1,
    parse_v2,
)
from windlass_server.hosting.preparation import Preparation, PreparationError, VersionSpec
from windlass_testing import models
from windlass_testing.waiting import until

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


V2_FILES = {
    # As Linux 6.1 and systemd 252 show a container's group with a limit of 2 GiB.
    "memory.current": "1610612736\n",
    "memory.high": "max\n",
    "memory.max": "2147483648\n",
    "memory.stat": "anon 900000000\nfile 650117120\nkernel 33554432\nkernel_stack 1048576\npagetables 4194304\n"
    "sec_pagetables 0\npercpu 1024\nsock 0\nvmalloc 0\nshmem 8388608\nzswap 0\nzswapped 0\nfile_mapped 104857600\n"
    "file_dirty 0\nfile_writeback 0\nswapcached 0\nanon_thp 0\nfile_thp 0\nshmem_thp 0\ninactive_anon 0\n"
    "active_anon 900000000\ninactive_file 419430400\nactive_file 209715200\nunevictable 0\nslab_reclaimable 8388608\n"
    "slab_unreclaimable 4194304\nslab 12582912\nworkingset_refault_anon 0\npgfault 1000\npgmajfault 0\n",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    "cgroup.controllers": "cpu memory pids\n",
}
V1_FILES = {
    "memory.usage_in_bytes": "1610612736\n",
    "memory.limit_in_bytes": "2147483648\n",
    "memory.stat": "cache 650117120\nrss 900000000\nmapped_file 104857600\ninactive_file 419430400\n"
    "active_file 209715200\nhierarchical_memory_limit 2147483648\ntotal_cache 650117120\ntotal_rss 900000000\n"
    "total_mapped_file 104857600\ntotal_inactive_file 419430400\ntotal_active_file 209715200\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
}
BIG_MACHINE = "MemTotal: 67108864 kB\nMemAvailable: 60000000 kB\n"


def a_host(folder: Path, v2: bool, files: dict[str, str], above: dict[str, str], available: str = BIG_MACHINE) -> Path:
    """`/proc` and `/sys/fs/cgroup` of a host whose process is in `pods/one`; gives the former."""
    mounted = folder / "sys" / ("cgroup" if v2 else "memory")
    for group, content in (("pods/one", files), ("pods", above)):
        (mounted / group).mkdir(parents=True, exist_ok=True)
        for name, text in content.items():
            (mounted / group / name).write_text(text)
    own = folder / "proc" / "self"
    own.mkdir(parents=True)
    (folder / "proc" / "meminfo").write_text(available)
    (own / "cgroup").write_text("0::/pods/one\n" if v2 else "5:memory:/pods/one\n3:cpu:/other\n0::/\n")
    kind = "cgroup2 cgroup2 rw,nsdelegate" if v2 else "cgroup cgroup rw,memory"
    (own / "mountinfo").write_text(f"30 23 0:26 / {mounted} rw,nosuid - {kind}\n")
    return folder / "proc"


def smaller(files: dict[str, str], v2: bool) -> dict[str, str]:
    return files | {"memory.max" if v2 else "memory.limit_in_bytes": f"{1700 * MIB}\n"}


@pytest.mark.parametrize("v2", [True, False], ids=["v2", "v1"])
@pytest.mark.parametrize("case", ["own limit", "limit above", "machine"])
def test_a_room_reads_what_is_left_off_a_host(tmp_path, v2, case):
    files = V2_FILES if v2 else V1_FILES
    none = {"memory.max": "max\n"} if v2 else {"memory.limit_in_bytes": "9223372036854771712\n"}
    left = {"own limit": 2048 - 1536 + 500, "limit above": 1700 - 1536 + 500, "machine": 300}[case]
    proc = a_host(
        tmp_path,
        v2,
        files | (none if case == "machine" else {}),
        smaller(files, v2) if case == "limit above" else files | none,
        f"MemTotal: 4194304 kB\nMemAvailable: {300 * 1024} kB\n" if case == "machine" else BIG_MACHINE,
    )
    level = Room(256 * MIB, proc).level()
    assert level.left == left * MIB
    assert level.source.endswith({"own limit": "pods/one", "limit above": "pods", "machine": "memory"}[case])


def test_version_2_at_the_top_has_no_files_of_its_own_and_is_passed_over(tmp_path):
    proc = a_host(tmp_path, True, V2_FILES, {"cgroup.controllers": "memory\n"})
    assert Room(0, proc).level().limit == 2048 * MIB


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


def test_what_a_process_has_to_itself_is_seen_from_outside_and_nothing_once_it_is_gone():
    code = "data = bytearray(b'x') * (100 << 20); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 100 * MIB < own_bytes(process.pid) < 200 * MIB
        process.communicate(b"\n")
    assert own_bytes(process.pid) == 0


def address_space(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * PAGE


BAD_ALLOC = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc"
ABORTED = WorkerExit(None, signal.SIGABRT)


@pytest.mark.parametrize(
    ("case", "end", "out_of_memory"),
    [
        ("the C++ library got none", WorkerEnd(ABORTED, None, BAD_ALLOC), True),
        ("the system gave none", WorkerEnd(ABORTED, None, "mmap failed: Cannot allocate memory"), True),
        ("TensorFlow says so", WorkerEnd(WorkerExit(1), None, "OOM when allocating tensor with shape[9]"), True),
        ("a check failed", WorkerEnd(ABORTED, None, "Check failed: rank == 4"), False),
        ("it broke the rules", WorkerEnd(WorkerExit(None, signal.SIGKILL), "it sent nonsense", BAD_ALLOC), False),
        ("it was ended for memory", WorkerEnd(WorkerExit(None, signal.SIGKILL), "it took all", "", True), True),
        ("somebody killed it", WorkerEnd(WorkerExit(None, signal.SIGKILL), None, BAD_ALLOC), False),
    ],
)
def test_a_worker_that_ends_for_want_of_memory_is_told_from_one_that_crashes(case, end, out_of_memory):
    assert end.out_of_memory is out_of_memory, case


def test_a_load_that_gets_no_memory_and_aborts_is_no_verdict(run, launcher, tmp_path):
    """As under a limit of address space, or where the system doesn't promise memory that it hasn't got."""
    models.counting(tmp_path, "m", 1)
    spec = VersionSpec("m", 1, None, tmp_path / "m" / "1")

    async def main() -> PreparationError:
        preparation = Preparation(spec, launcher, ResidentSettings(threads=2), lambda: None)
        preparing = asyncio.create_task(preparation.run())
        await until(lambda: preparation.worker is not None or preparing.done())
        assert preparation.worker is not None
        pid = preparation.worker.pid
        most = address_space(pid) + 900 * MIB
        resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
        with pytest.raises(PreparationError) as raised:
            await preparing
        return raised.value

    failure = run(main()).failure
    assert failure.reason is Reason.WONT_FIT, failure
    assert not failure.is_verdict
    assert "while it loaded" in failure.message
    assert "std::bad_alloc" in failure.message


def test_the_kernels_first_choice_is_marked_and_unmarked():
    with subprocess.Popen(["sleep", "60"]) as process:
        score = Path(f"/proc/{process.pid}/oom_score_adj")
        before = score.read_text()
        undo = kill_first(process.pid)
        assert score.read_text() == "900\n"
        undo()
        assert score.read_text() == before
        process.kill()
