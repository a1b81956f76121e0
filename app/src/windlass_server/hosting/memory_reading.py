"""How much memory a worker has to itself, as the kernel counts it. A worker opens this before it is confined."""

from __future__ import annotations

import os

_descriptor: int | None = None


def prepare_to_measure() -> None:
    """Opens the kernel's sums of this process, and of nothing else."""
    global _descriptor  # noqa: PLW0603 - of this process
    _descriptor = os.open("/proc/self/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC)


def private_bytes() -> int:
    """Memory that is this process's alone, in bytes: what ending it gives back."""
    if _descriptor is None:
        prepare_to_measure()
    assert _descriptor is not None
    lines = os.pread(_descriptor, 16 * 1024, 0).decode().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
