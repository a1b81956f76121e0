"""A process and all below it, and what they cost. Linux."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def tree(pid: int) -> Iterator[int]:
    """It, and its children's trees."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except FileNotFoundError:  # a thread that has just ended
            continue
        for child in children:
            yield from tree(int(child))


def pss(pid: int, *kinds: str) -> int:
    """Bytes of a process and all below it, of a page that several have the share. `kinds`: of `Pss_Anon`, `Pss_File`
    and `Pss_Shmem`; none: all."""
    return sum(_of_one(each, kinds or ("Pss",)) for each in tree(pid))


def _of_one(pid: int, kinds: tuple[str, ...]) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    fields = {name.rstrip(":"): int(value) for name, value, *_ in (line.split() for line in lines)}
    return sum(fields[kind] for kind in kinds) * 1024
