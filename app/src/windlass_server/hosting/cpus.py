"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_QUOTAS = (
    Path("/sys/fs/cgroup/cpu.max"),
    Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
)


def available_cpus() -> int:
    """Those of its affinity, no more than its container's quota rounded up; at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota()
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def _quota() -> float | None:
    version2, version1 = _CGROUP_QUOTAS
    try:
        if version2.exists():
            return parse_cpu_max(version2.read_text())
        period = version1.with_name("cpu.cfs_period_us")
        return parse_cpu_max(f"{version1.read_text().strip()} {period.read_text()}")
    except OSError:
        return None


def parse_cpu_max(text: str) -> float | None:
    """`200000 100000` is 2.0 processors; `max 100000` (and version 1's -1) no limit.

    >>> parse_cpu_max("150000 100000"), parse_cpu_max("max 100000")
    (1.5, None)
    """
    quota, _, period = text.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)
