"""A control group with a memory limit around a program, as a container has one. Needs root."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from .one_machine import wait_until

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class ControlGroup:
    """`command + [program, …]` runs the program in it."""

    folder: Path
    v2: bool

    @property
    def command(self) -> list[str]:
        """Enters the group, and becomes what follows."""
        return ["/bin/sh", "-c", f'echo $$ > "{self.folder}/cgroup.procs" && exec "$@"', "sh"]

    @property
    def used(self) -> int:
        """Bytes, caches included."""
        return int(self._read("memory.current" if self.v2 else "memory.usage_in_bytes"))

    @property
    def limited_to(self) -> int:
        """Bytes."""
        return int(self._read("memory.max" if self.v2 else "memory.limit_in_bytes"))

    @property
    def peak(self) -> int:
        """The most that was used since the limit was set, in bytes, caches included. On version 2: since the start."""
        return int(self._read("memory.peak" if self.v2 else "memory.max_usage_in_bytes"))

    def limit(self, size: int) -> None:
        """Sets the memory limit in bytes."""
        if not self.v2:
            (self.folder / "memory.max_usage_in_bytes").write_text("0")
        name = "memory.max" if self.v2 else "memory.limit_in_bytes"
        (self.folder / name).write_text(str(size))

    @property
    def oom_kills(self) -> int:
        """How often the kernel's OOM killer ended a process in it."""
        fields = dict(
            line.split() for line in self._read("memory.events" if self.v2 else "memory.oom_control").splitlines()
        )
        return int(fields["oom_kill"])

    def _read(self, name: str) -> str:
        return (self.folder / name).read_text()


def why_not() -> str:
    """Why there can be no control group here; empty: there can be."""
    try:
        with control_group():
            return ""
    except OSError as error:
        return f"no control group with a memory limit can be made here: {error}"


@contextmanager
def control_group() -> Iterator[ControlGroup]:
    """A new one, without a limit yet; what is in it is killed at the end. Raises `OSError` where none can be made."""
    v2 = (ROOT / "cgroup.controllers").exists()
    folder = (ROOT if v2 else ROOT / "memory") / f"windlass-test-{uuid4().hex[:8]}"
    if v2 and "memory" not in (ROOT / "cgroup.subtree_control").read_text().split():
        (ROOT / "cgroup.subtree_control").write_text("+memory")
    folder.mkdir()
    group = ControlGroup(folder, v2)
    try:
        group.limit(1 << 40)
        yield group
    finally:
        wait_until("the control group is empty", lambda: _ended(folder), last_seen=lambda: _members(folder))
        folder.rmdir()


def _members(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "cgroup.procs").read_text().split()]


def _ended(folder: Path) -> bool:
    members = _members(folder)
    for pid in members:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return not members
