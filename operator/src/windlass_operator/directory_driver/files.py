"""Reading with bounds, and writing so that a crash leaves the old content or the new one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

_TEMPORARY_SUFFIX = ".windlass-tmp"


class FileProblemError(Exception):
    """A file is there and can't be read; the message says why and what to do."""


class NotLastingError(OSError):
    """The new content is there, and may be gone after a loss of power: the folder couldn't be synced."""


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """A regular file's bytes; links are followed. Raises `FileNotFoundError`, and `FileProblemError` for everything
    else. Never waits for a pipe's other side.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileProblemError(f"it can't be read: {error.strerror}; mend its permissions or remove it") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileProblemError("it is no regular file; remove it")
        data = b""
        while len(data) <= max_bytes and (more := os.read(descriptor, max_bytes + 1 - len(data))):
            data += more
    except OSError as error:
        raise FileProblemError(f"it can't be read: {error.strerror}; mend its permissions or remove it") from error
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        raise FileProblemError(f"it has more than {max_bytes} bytes; at most so many are read")
    return data


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replaces a file: temporary file, fsync, rename, fsync of the folder. Raises `OSError`, of which
    `NotLastingError` after the rename."""
    # A name of its own: two writers that don't know of each other must not rename each other's halves.
    # Not longer than the file's own, which may have as many bytes as a name can have.
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}{_TEMPORARY_SUFFIX}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    os.close(descriptor)
    try:
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise NotLastingError(error.errno, f"{error.strerror} (syncing the folder)", str(path.parent)) from error


def remove(path: Path) -> None:
    """Removes a file, if it is there. Raises `OSError`."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(path.parent)


@contextlib.contextmanager
def exclusive(path: Path, mode: int = 0o644) -> Iterator[int]:
    """A descriptor to append to a file, which is made if it isn't there; who else opens it by this waits. Blocks.
    Raises `OSError`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)
        # It was renamed while this waited: the next one of this name is meant.


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def append_line(descriptor: int, line: bytes) -> None:
    """Adds one line (without its end) to a file that is open for reading and appending. Raises `OSError`."""
    size = os.fstat(descriptor).st_size
    # A crash may have left half a line; the next one begins a line of its own.
    broken = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    os.write(descriptor, (b"\n" if broken else b"") + line + b"\n")


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Removes what writers that died left behind. Only by who holds the lock."""
    for path in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)
