"""Launcher, templates and workers as processes; by the LiteRT runtime, whose template is quickly up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from windlass_server.hosting.cpus import available_cpus, parse_cpu_max
from windlass_server.hosting.launcher import Launcher, LauncherError, WorkerExit, WorkerProcess
from windlass_testing.waiting import DEADLINE_SECONDS as DEADLINE
from windlass_testing.waiting import until

Run = Callable[[Coroutine[Any, Any, Any]], Any]
ARGUMENT = {"path": "/nowhere", "threads": 2, "maxRequestBytes": 1000, "maxAnswerBytes": 1000}


@asynccontextmanager
async def launched(scratch: Path | None = None) -> AsyncIterator[Launcher]:
    launcher = Launcher(scratch)
    await launcher.start()
    try:
        yield launcher
    finally:
        await launcher.close()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def maps_of(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def children_of(pid: int) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and parent_of(int(entry.name)) == pid and alive(int(entry.name)):
                found.add(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def end(worker: WorkerProcess) -> WorkerExit:
    worker.socket.close()
    async with asyncio.timeout(DEADLINE):
        return await asyncio.shield(worker.exited)


def test_a_worker_is_a_child_of_the_launcher_and_ends_with_its_channel(run: Run) -> None:
    async def main() -> None:
        async with launched() as launcher:
            worker = await launcher.spawn("litert", ARGUMENT)
            assert parent_of(worker.pid) == launcher.pid
            assert await end(worker) == WorkerExit(0)
            assert not alive(worker.pid)

    run(main())


def test_a_worker_has_no_environment_no_descriptor_and_no_folder_but_its_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINDLASS_TEST_SECRET", "hunter2")

    async def main() -> None:
        async with launched(tmp_path / "scratch") as launcher:
            worker = await launcher.spawn("litert", ARGUMENT)
            process = Path(f"/proc/{worker.pid}")
            names = {line.partition(b"=")[0] for line in (process / "environ").read_bytes().split(b"\0") if line}
            assert names <= {b"LANG", b"PATH", b"TF_CPP_MIN_LOG_LEVEL", b"TF_ENABLE_ONEDNN_OPTS", b"LD_LIBRARY_PATH"}
            await until(lambda: {entry.name for entry in (process / "fd").iterdir()} == {"0", "1", "2", "3", "4", "5"})
            assert (process / "fd" / "0").readlink() == Path(os.devnull)
            assert str((process / "fd" / "3").readlink()).startswith("socket:")
            # What it may know of itself: its memory's size and its command line.
            assert (process / "fd" / "4").readlink() == process / "smaps_rollup"
            assert (process / "fd" / "5").readlink() == process / "cmdline"
            scratch = (process / "cwd").readlink()
            assert scratch.is_relative_to(tmp_path / "scratch")
            await end(worker)
            await until(lambda: not scratch.exists())
        assert list((tmp_path / "scratch").iterdir()) == []

    run(main())


def test_a_killed_worker_is_reported_with_its_signal_and_others_go_on(run: Run) -> None:
    async def main() -> None:
        async with launched() as launcher:
            one, other = [await launcher.spawn("litert", ARGUMENT) for _ in range(2)]
            os.kill(one.pid, signal.SIGSEGV)
            async with asyncio.timeout(DEADLINE):
                ended = await one.exited
            assert ended == WorkerExit(None, signal.SIGSEGV)
            assert not ended.from_outside
            assert str(ended) == "was ended by SIGSEGV"
            assert alive(other.pid)
            other.kill()
            async with asyncio.timeout(DEADLINE):
                assert (await other.exited).from_outside
            one.socket.close()
            other.socket.close()

    run(main())


def test_workers_outlive_their_template_and_the_next_one_gets_a_new_template(run: Run) -> None:
    async def main() -> None:
        async with launched() as launcher:
            first = await launcher.spawn("litert", ARGUMENT)
            assert launcher.pid is not None
            (template,) = children_of(launcher.pid) - {first.pid}
            os.kill(template, signal.SIGKILL)
            await until(lambda: not alive(template))
            second = await launcher.spawn("litert", ARGUMENT)
            assert alive(first.pid)
            assert parent_of(second.pid) == launcher.pid
            assert template not in children_of(launcher.pid)
            await end(first)
            await end(second)

    run(main())


def test_a_template_that_dies_before_it_forked_fails_who_waits_for_it(run: Run) -> None:
    async def main() -> None:
        async with launched() as launcher:
            assert launcher.pid is not None
            spawning = asyncio.create_task(launcher.spawn("litert", ARGUMENT))
            await until(lambda: bool(children_of(launcher.pid or 0)))
            (template,) = children_of(launcher.pid)
            os.kill(template, signal.SIGSTOP)
            os.kill(template, signal.SIGKILL)
            with pytest.raises(LauncherError, match="template of the litert runtime ended"):
                await spawning

    run(main())


def test_a_template_that_hangs_is_given_up_and_replaced(run: Run) -> None:
    async def main() -> None:
        async with launched() as launcher:
            await launcher.warm("litert")
            assert launcher.pid is not None
            (template,) = children_of(launcher.pid)
            os.kill(template, signal.SIGSTOP)
            with pytest.raises(LauncherError, match="had no worker ready in"):
                await launcher.spawn("litert", ARGUMENT, within=0.2)
            await until(lambda: not alive(template))
            worker = await launcher.spawn("litert", ARGUMENT)
            await end(worker)
            assert children_of(launcher.pid) == children_of(launcher.pid) - {template}

    run(main())


def test_a_spawn_that_is_cancelled_leaves_no_worker(run: Run) -> None:
    async def main() -> None:
        async with launched() as launcher:
            await launcher.warm("litert")
            assert launcher.pid is not None
            (template,) = children_of(launcher.pid)
            os.kill(template, signal.SIGSTOP)
            spawning = asyncio.create_task(launcher.spawn("litert", ARGUMENT))
            await asyncio.sleep(0.05)
            spawning.cancel()
            await asyncio.wait([spawning])
            os.kill(template, signal.SIGCONT)
            worker = await launcher.spawn("litert", ARGUMENT)  # answered after the one before
            await until(lambda: children_of(launcher.pid or 0) == {template, worker.pid})
            await end(worker)

    run(main())


def test_the_death_of_the_launcher_ends_its_workers_and_the_next_need_starts_another(run: Run) -> None:
    async def main() -> None:
        async with launched() as launcher:
            worker = await launcher.spawn("litert", ARGUMENT)
            assert launcher.pid is not None
            first = launcher.pid
            os.kill(first, signal.SIGKILL)
            async with asyncio.timeout(DEADLINE):
                ended = await worker.exited
            assert ended.from_outside
            assert str(ended) == "ended with the launcher"
            await until(lambda: not alive(worker.pid))
            worker.socket.close()
            again = await launcher.spawn("litert", ARGUMENT)
            assert launcher.pid != first
            await end(again)

    run(main())


_MAIN = """
import asyncio, sys
from windlass_server.hosting.launcher import Launcher
async def main():
    launcher = Launcher()
    workers = [await launcher.spawn("litert", {"path": "/", "threads": 1, "maxRequestBytes": 1, "maxAnswerBytes": 1})]
    print(launcher.pid, *[worker.pid for worker in workers], flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""


@pytest.mark.parametrize("flags", [[], ["-I"]])
def test_everything_dies_with_main(run: Run, tmp_path: Path, flags: list[str]) -> None:
    command = [sys.executable, *flags, "-c", _MAIN]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # what a killed main leaves behind
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            launcher, worker = map(int, process.stdout.readline().split())
            everyone = {launcher, *children_of(launcher)}
            assert worker in everyone
            assert len(everyone) == 3
        finally:
            process.kill()
        run(until(lambda: not any(alive(pid) for pid in everyone)))


def test_a_template_and_the_launcher_have_one_thread_and_no_tensorflow(run: Run) -> None:
    async def main() -> None:
        async with launched() as launcher:
            await launcher.warm("litert")
            assert launcher.pid is not None
            (template,) = children_of(launcher.pid)
            for pid in (launcher.pid, template):
                assert threads_of(pid) == 1
                assert "tensorflow" not in maps_of(pid)
            assert "numpy" not in maps_of(launcher.pid)

    run(main())


def test_what_a_worker_writes_is_logged_with_its_version_and_bounded(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    from windlass_server.hosting.output import OutputReader

    async def main() -> None:
        reading, writing = os.pipe()
        reader = OutputReader(reading, {"model": "m", "version": 3})
        with os.fdopen(writing, "wb") as file:
            file.write(b"\n".join(b"line %d" % index for index in range(1000)) + b"\n")
            file.write(b"x" * 5000 + b"\n\xff\nlast, without end")
        async with asyncio.timeout(DEADLINE):
            await reader.ended.wait()
        assert reader.tail().endswith("\ufffd\nlast, without end")
        assert len(reader.tail(100)) == 101

    with caplog.at_level("INFO", logger="windlass_server.worker"):
        run(main())
    assert len(caplog.records) == 200
    assert (caplog.records[0].message, caplog.records[0].model, caplog.records[0].version) == ("line 0", "m", 3)


def test_what_tensorflow_tells_of_itself_at_each_start_is_for_debugging(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    from windlass_server.hosting.output import OutputReader

    lines = [
        b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        b"I0000 00:00:1763689583.773494    8355 port.cc:153] oneDNN custom operations are on.",
        b"2026-11-21 01:33:16.123456: I tensorflow/core/platform/cpu_feature_guard.cc:210] This binary is optimized",
        b"F0000 00:00:1763689583.773494    8355 tensor_format.h:431] Check failed: index >= 0",
        b"In other words, I say this.",
    ]

    async def main() -> None:
        reading, writing = os.pipe()
        reader = OutputReader(reading, {})
        with os.fdopen(writing, "wb") as file:
            file.write(b"\n".join(lines) + b"\n")
        async with asyncio.timeout(DEADLINE):
            await reader.ended.wait()

    with caplog.at_level("DEBUG", logger="windlass_server.worker"):
        run(main())
    assert [record.levelname for record in caplog.records] == ["DEBUG"] * 3 + ["INFO"] * 2


def test_a_quota_of_processors_is_rounded_up() -> None:
    assert parse_cpu_max("150000 100000\n") == 1.5
    assert parse_cpu_max("max 100000") is None
    assert parse_cpu_max("-1 100000") is None
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))


def test_forking_from_a_ready_template_is_quick(run: Run) -> None:
    async def main() -> float:
        async with launched() as launcher:
            await launcher.warm("litert")
            times = []
            for _ in range(5):
                started = time.monotonic()
                worker = await launcher.spawn("litert", ARGUMENT)
                times.append(time.monotonic() - started)
                await end(worker)
            return min(times)

    assert run(main()) < 2
