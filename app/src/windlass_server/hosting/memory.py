"""How much memory is left, and whether a version fits: the container's limit by cgroup v2 or v1, else the machine's.

What is read is plain numbers out of small files; what is decided from them is pure.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from windlass_contract.manifest import Manifest

MIB = 1024 * 1024
PAGE = os.sysconf("SC_PAGE_SIZE")
MEASURED_FACTOR = 1.2
"""Of what a version needed where it was packed: requests that run side by side need some more."""
FILES_FACTOR = 2.0
"""Of the size of a version's files, when nobody measured it: weights are read, and copied once on the way."""
WORKER_BYTES = 64 * MIB
"""What a worker has of its own besides the model, when nobody measured it."""
FASTEST_BYTES_PER_SECOND = 4 << 30
"""Nobody takes memory faster: the kernel clears each page first."""
FIRST_CHOICE = 900
"""Of `oom_score_adj`, whose most is 1000."""
_NO_LIMIT = 1 << 60
"""Version 1 writes a number near 2^63 for no limit."""


@dataclass(frozen=True)
class Level:
    """Memory in bytes, at one moment, of whoever limits us."""

    limit: int
    used: int
    """Cache of files included."""
    reclaimable: int
    """Of the used, what the kernel gives up by itself: cached files that no program runs from."""
    source: str
    """For people: whose limit this is."""

    @property
    def left(self) -> int:
        """What can still be had."""
        return self.limit - self.used + self.reclaimable


def need_of(manifest: Manifest) -> int:
    """Bytes that a version is expected to need beside what is there."""
    if manifest.memory_bytes is not None:
        return int(manifest.memory_bytes * MEASURED_FACTOR)
    return int(sum(entry.size for entry in manifest.files) * FILES_FACTOR) + WORKER_BYTES


def lack(manifest: Manifest, level: Level, reserve: int) -> str | None:
    """Why a version doesn't fit, with the remedies; None: it fits. `reserve`: bytes that are to stay free."""
    need, left = need_of(manifest), level.left - reserve
    if need <= left:
        return None
    how = "measured when it was packed" if manifest.memory_bytes is not None else "by the size of its files"
    return (
        f"version {manifest.version} of model {manifest.model} needs {_mib(need)} ({how}), and {_mib(max(left, 0))} "
        f"of {_mib(level.limit)} are left ({level.source}, {_mib(reserve)} kept free): raise the memory limit, "
        "retire what isn't needed, or roll it out with mode Restart, which doesn't hold two versions side by side"
    )


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"


def parse_v2(current: str, limits: Mapping[str, str], stat: str, source: str) -> Level | None:
    """From `memory.current`, `memory.max` and `memory.high`, and `memory.stat`. None: there is no limit."""
    numbers = [int(text) for text in limits.values() if text.strip().isdigit()]
    if not numbers:
        return None
    fields = _fields(stat)
    return Level(min(numbers), int(current), _cache(fields, "", "file_mapped"), source)


def parse_v1(usage: str, limit: str, stat: str, source: str) -> Level | None:
    """From `memory.usage_in_bytes`, `memory.limit_in_bytes` and `memory.stat`. None: there is no limit."""
    if int(limit) >= _NO_LIMIT:
        return None
    return Level(int(limit), int(usage), _cache(_fields(stat), "total_", "total_mapped_file"), source)


def parse_meminfo(text: str) -> Level:
    """The machine's own, from `/proc/meminfo`."""
    fields = {name.rstrip(":"): int(value) * 1024 for name, value, *_ in map(str.split, text.splitlines())}
    total = fields["MemTotal"]
    return Level(total, total - fields["MemAvailable"], 0, "the machine's memory")


def _fields(stat: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in stat.splitlines())}


def _cache(fields: Mapping[str, int], prefix: str, mapped: str) -> int:
    cached = fields.get(f"{prefix}inactive_file", 0) + fields.get(f"{prefix}active_file", 0)
    return max(0, cached - fields.get(mapped, 0))


@dataclass(frozen=True)
class Folder:
    """A control group that counts our memory."""

    path: Path
    v2: bool

    def read(self) -> Level | None:
        """What it says; None: it sets no limit. Raises `OSError`, `ValueError`."""
        source = f"limit of the control group {self.path}"
        if self.v2:
            limits = {name: (self.path / name).read_text() for name in ("memory.max", "memory.high")}
            return parse_v2(self._text("memory.current"), limits, self._text("memory.stat"), source)
        return parse_v1(
            self._text("memory.usage_in_bytes"),
            self._text("memory.limit_in_bytes"),
            self._text("memory.stat"),
            source,
        )

    def _text(self, name: str) -> str:
        return (self.path / name).read_text()


def folders(cgroup: str, mountinfo: str) -> list[Folder]:
    """The control groups that limit a process, its own first, from `/proc/self/cgroup` and `/proc/self/mountinfo`.
    Those above it that can be seen count too."""
    paths = dict(_memory_paths(cgroup))
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        v2 = kind == "cgroup2"
        if v2 not in paths or not (v2 or (kind == "cgroup" and "memory" in options.split()[-1].split(","))):
            continue
        root, mounted = before.split()[3:5]
        path = paths[v2]
        # In a container without a namespace of its own the path is the host's, and the mount shows the container's.
        inside = path[len(root.rstrip("/")) :] if path.startswith(root) else ""
        top = Path(mounted)
        own = top / inside.strip("/")
        found += [Folder(each, v2) for each in (own, *own.parents) if each == top or top in each.parents]
    return found


def _memory_paths(cgroup: str) -> Iterator[tuple[bool, str]]:
    """Whether it is version 2, and the path."""
    for line in cgroup.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            yield True, path
        elif "memory" in controllers.split(","):
            yield False, path


def own_bytes(pid: int) -> int:
    """Memory that a process has to itself or took over from the one it was forked from, in bytes; 0 when it is gone.
    Cheap enough to be asked often, and of any process."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * PAGE


class Room:
    """What is left for this process and its workers. Reading takes well below a millisecond."""

    def __init__(self, reserve: int, proc: Path = Path("/proc")) -> None:
        """`reserve`: bytes that are to stay free when a version has been loaded."""
        self.reserve = reserve
        self._proc = proc
        seen = folders((proc / "self" / "cgroup").read_text(), (proc / "self" / "mountinfo").read_text())
        name = "memory.current"
        self._folders = [each for each in seen if (each.path / (name if each.v2 else "memory.stat")).exists()]

    def level(self) -> Level:
        """Of whoever leaves the least. Raises `OSError`."""
        levels = [parse_meminfo((self._proc / "meminfo").read_text())]
        levels += [level for each in self._folders if (level := each.read()) is not None]
        return min(levels, key=lambda level: level.left)

    def lack(self, manifest: Manifest, *, keep_reserve: bool = True) -> str | None:
        """See `lack`. Without `keep_reserve` all that is left may be taken."""
        return lack(manifest, self.level(), self.reserve if keep_reserve else 0)


def next_look(margin: int) -> float:
    """Seconds until memory is to be looked at again, so that nobody can take `margin` bytes meanwhile."""
    return min(max(margin / FASTEST_BYTES_PER_SECOND, 0.005), 0.25)


def kill_first(pid: int) -> Callable[[], None]:
    """Has the kernel choose this process first, should memory run out before we act. What is returned undoes it.
    Does nothing where that isn't permitted."""
    path = Path(f"/proc/{pid}/oom_score_adj")

    def write(text: str) -> None:
        with contextlib.suppress(OSError):
            path.write_text(text)

    try:
        before = path.read_text()
    except OSError:
        return lambda: None
    write(str(FIRST_CHOICE))
    return lambda: write(before)
