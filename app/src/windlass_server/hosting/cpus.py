"""How many processors this process may use, and how much of their time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """Those of its affinity, no more than its container's quota rounded up; at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


LOADING_SHARE = 0.25
"""Of a quota: what a version may use that is being prepared beside one that serves."""


SHARE_BESIDE_REQUESTS = 0.125
"""Of all processors, where there is no quota: what a version may use that is being prepared while another is asked.
There may be idle ones for more; but the more of them are in use, for whatever, the less the kernel looks for another
one for a thread that it wakes up."""
LEAST_BESIDE_REQUESTS = 0.25


def cpus_beside_requests() -> float:
    """Processors' worth of time for what is being prepared while requests are answered."""
    return max(LEAST_BESIDE_REQUESTS, len(os.sched_getaffinity(0)) * SHARE_BESIDE_REQUESTS)


def loading_cpus() -> float | None:
    """Processors' worth of time for what is being prepared beside what serves; None: any, since there is no quota that
    it could use up, and its low priority does."""
    quota = cpu_quota()
    return None if quota is None or quota >= len(os.sched_getaffinity(0)) else quota * LOADING_SHARE


def cpu_quota(root: Path = _ROOT, own: Path = _OWN) -> float | None:
    """Processors' worth of time that the kernel gives to the control groups it is in, the smallest; None: no limit.
    Version 1 and version 2. `root`: where they are mounted; `own`: which ones are its own."""
    quotas = [quota for folder in _folders(root, own) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """Its groups and theirs, as far as they can be seen: a container may see its own as the root of all."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        inner = Path(path.lstrip("/"))
        yield from (base / each for each in (inner, *inner.parents))


def _quota(folder: Path) -> float | None:
    try:
        if folder.joinpath("cpu.max").exists():
            return parse_cpu_max(folder.joinpath("cpu.max").read_text())
        quota, period = (folder.joinpath(f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    except OSError:
        return None
    return parse_cpu_max(f"{quota.strip()} {period}")


def parse_cpu_max(text: str) -> float | None:
    """`200000 100000` is 2.0 processors; `max 100000` (and version 1's -1) no limit.

    >>> parse_cpu_max("150000 100000"), parse_cpu_max("max 100000")
    (1.5, None)
    """
    quota, _, period = text.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)
