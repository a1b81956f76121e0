"""A control group with a quota of processor time around a program, as a container with a CPU limit has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from .one_machine import wait_until
from .postgres import missing

ROOT = Path("/sys/fs/cgroup")
PERIOD_MICROSECONDS = 100_000
"""The kernel's default, and so Docker's and Kubernetes'."""


@contextmanager
def cpu_group(cpus: float) -> Iterator[list[str]]:
    """A command that enters a new group, which gets so many processors' worth of time, and becomes what follows it.
    What is in the group has ended by the end. Fails or skips the test where there can be none."""
    v2 = (ROOT / "cgroup.controllers").exists()
    # Below the group that the tests are in; version 2 allows no groups below one that has processes.
    folder = (ROOT if v2 else ROOT / "cpu" / _own()) / f"windlass-test-{uuid4().hex[:8]}"
    quota = int(cpus * PERIOD_MICROSECONDS)
    try:
        if v2 and "cpu" not in (ROOT / "cgroup.subtree_control").read_text().split():
            (ROOT / "cgroup.subtree_control").write_text("+cpu")
        folder.mkdir()
    except OSError as error:
        missing(f"no control group with a CPU quota can be made here: {error}", "run as root, on cgroup v1 or v2")
    try:
        if v2:
            (folder / "cpu.max").write_text(f"{quota} {PERIOD_MICROSECONDS}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
            (folder / "cpu.cfs_quota_us").write_text(str(quota))
        yield ["/bin/sh", "-c", f'echo $$ > "{folder}/cgroup.procs" && exec "$@"', "sh"]
    finally:
        wait_until("the control group is empty", lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()


def _own() -> Path:
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    return Path(next((path for _, controllers, path in lines if "cpu" in controllers.split(",")), "/").lstrip("/"))
