"""Files that are replaced while the replica runs: API keys, TLS certificates. Read anew when they changed.

A mounted Secret is replaced by renaming a link, a file on a machine by `mv` or in place: all of that shows in what the
file system says of the file, so nothing but that is asked each time.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

CHECK_SECONDS = 1.0
"""How long a change goes unnoticed at most."""

_Mark = tuple[int, int, int, int, int]


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The file's content. Raises `ValueError` when it is longer than `max_bytes`, and `OSError`."""
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    return data


def warn_if_everyone_reads(path: Path, what: str) -> None:
    """A secret that any user of the machine can read is no secret."""
    if path.stat().st_mode & stat.S_IROTH:
        log.warning(
            "everyone on this machine can read a secret", file=str(path), secret=what, remedy=f"chmod o-r {path}"
        )


class Watched:
    """Some files, and whether they changed since they were looked at last."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._seen = self._marks()

    def changed(self) -> bool:
        """Whether one was replaced, written, removed or made since the last question."""
        before, self._seen = self._seen, self._marks()
        return self._seen != before

    def _marks(self) -> list[_Mark | None]:
        return [_mark(path) for path in self._paths]


def _mark(path: Path) -> _Mark | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - links followed: a mounted Secret is one
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


async def follow(watched: Watched, reload: Callable[[], None], seconds: float = CHECK_SECONDS) -> None:
    """Calls `reload` in a thread whenever the files changed, until cancelled. `reload` must not raise."""
    while True:
        await asyncio.sleep(seconds)
        if await asyncio.to_thread(watched.changed):
            await asyncio.to_thread(reload)
