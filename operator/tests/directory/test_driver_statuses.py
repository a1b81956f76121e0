"""Statuses of several servers, with the driver in this process and outcomes made by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from windlass_contract.model_version import ModelVersionStatus
from windlass_operator.control.hub import Hub
from windlass_operator.directory_driver.driver import DirectoryDriver, Folders
from windlass_operator.engine.interface import Observation, Outcome
from windlass_operator.metrics import Metrics


def serving(seen: Observation) -> Outcome:
    statuses = {each.name: ModelVersionStatus(phase="Serving") for each in seen.model_versions}
    return Outcome(seen.record, seen.plan, write=False, statuses=statuses)


async def drive(
    workspace: Any,
    reconcile: Callable[[Observation], Outcome],
    until: Callable[[], bool],
    tokens: Path | None = None,
) -> None:
    """Runs the driver until that is so, and stops it."""
    workspace.state.mkdir(exist_ok=True)
    folders = Folders(workspace.state, tokens or workspace.state / "tokens")
    folders.create()
    driver = DirectoryDriver(workspace.folder, folders, Hub(), reconcile, Metrics("test"), poll_seconds=0.05)
    stop = asyncio.Event()

    async def nothing() -> None:
        pass

    running = asyncio.create_task(driver.run(stop, nothing))
    async with asyncio.timeout(60):
        while not until():
            assert not running.done()
            await asyncio.sleep(0.01)
        stop.set()
        await running


def status_files(workspace: Any) -> set[str]:
    return {path.name for path in Path(workspace.state, "status").glob("*.yaml")}


def test_a_server_whose_passes_always_fail_keeps_no_others_statuses_from_being_written(workspace: Any) -> None:
    def reconcile(seen: Observation) -> Outcome:
        if seen.server == "broken":
            raise ZeroDivisionError
        return serving(seen)

    workspace.write("m-1", 1)
    workspace.write("x-1", 1, server="broken")
    folder = workspace.state / "status"
    asyncio.run(drive(workspace, serving, lambda: status_files(workspace) == {"m-1.yaml", "x-1.yaml"}))
    (folder / "m-1.yaml").unlink()
    (folder / "gone.yaml").write_text("status: {phase: Serving}")
    asyncio.run(drive(workspace, reconcile, (folder / "m-1.yaml").exists))
    assert status_files(workspace) == {"m-1.yaml", "x-1.yaml", "gone.yaml"}, "nobody knows yet what is out of date"
    asyncio.run(drive(workspace, serving, lambda: not (folder / "gone.yaml").exists()))
    assert status_files(workspace) == {"m-1.yaml", "x-1.yaml"}


def test_a_damaged_file_of_a_server_not_looked_at_leaves_its_status_as_it_was(workspace: Any) -> None:
    def reconcile(seen: Observation) -> Outcome:
        if seen.server == "broken":
            raise ZeroDivisionError
        return serving(seen)

    workspace.write("m-1", 1)
    file = workspace.write("x-1", 1, server="broken")
    folder = workspace.state / "status"
    asyncio.run(drive(workspace, serving, lambda: status_files(workspace) == {"m-1.yaml", "x-1.yaml"}))
    before = (folder / "x-1.yaml").read_text()
    workspace.replace(file, file.read_text().replace("version: 1", "version: [1"))
    (folder / "m-1.yaml").unlink()
    asyncio.run(drive(workspace, reconcile, (folder / "m-1.yaml").exists))
    assert (folder / "x-1.yaml").read_text() == before


def test_a_token_that_cant_be_made_stops_nothing_and_is_said_once(workspace: Any, capsys: Any) -> None:
    workspace.write("m-1", 1)
    nobody_writes_here = Path("/proc/sys")
    asyncio.run(drive(workspace, serving, lambda: status_files(workspace) == {"m-1.yaml"}, nobody_writes_here))
    said = capsys.readouterr().out
    assert said.count("token.missing") == 1
    assert "--tokens" in said


def test_statuses_from_before_stay_while_it_is_not_known_what_the_directory_holds(workspace: Any) -> None:
    """Its memory and the durable objects are lost: the first scans count no file yet."""
    workspace.write("m-1", 1)
    folder = workspace.state / "status"
    asyncio.run(drive(workspace, serving, (folder / "m-1.yaml").exists))
    for lost in (workspace.state / "objects.json", *(workspace.state / "servers").glob("*")):
        lost.unlink()
    inode = (folder / "m-1.yaml").stat().st_ino
    (folder / "gone.yaml").write_text("status: {phase: Serving}")
    workspace.write("m-1", 1)  # just now: it counts once it has settled
    asyncio.run(drive(workspace, serving, lambda: not (folder / "gone.yaml").exists()))
    assert (folder / "m-1.yaml").stat().st_ino == inode, "it was never away"
