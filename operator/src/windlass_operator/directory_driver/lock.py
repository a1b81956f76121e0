"""Who acts: the holder of an exclusive lock on one file. The kernel gives it up when the holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class StateLock:
    """An exclusive lock on `path`, for as long as this process lives or until `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Takes the lock unless somebody else has it. Raises `OSError` when the file can't be opened."""
        self.release()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        if not self.holds():  # replaced between open and lock
            self.release()
            return False
        # For people who wonder who it is; nothing reads it back.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return True

    def holds(self) -> bool:
        """Whether the lock is held, on the file that is there now: one that was removed or replaced counts no more."""
        if self._descriptor is None:
            return False
        try:
            ours, there = os.fstat(self._descriptor), os.stat(self.path, follow_symlinks=False)  # noqa: PTH116
        except OSError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    def release(self) -> None:
        """Gives it up, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
