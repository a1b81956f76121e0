"""Records on disk until the database has them.

A folder of append-only segments. A record is its length and CRC-32 (little endian, 4 bytes each) and its bytes. What
`append` returned from survives a kill. After a restart all records of all segments left are handed out from their
beginning: whoever stores them has to ignore those it knows.

One thread appends, one takes; each method may be called from either.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from windlass_server.durable import sync_folder

from .settings import PredictionLogError

_HEADER = struct.Struct("<II")
_MAX_RECORD_BYTES = 64 * 1024
_SUFFIX = ".spool"
_TRUNCATE_BYTES = 256 * 1024
_log = logging.getLogger(__name__)


@dataclass
class _Segment:
    path: Path
    size: int
    """Bytes that are safe on disk."""
    modified: float
    """When it was last appended to, by the wall clock."""
    taken: int = 0
    """Bytes handed out."""


class Spool:
    """Holds the folder alone (a lock on it). Raises `PredictionLogError` when another process does."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        max_age_seconds: float,
        segment_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.dropped = 0
        """Records given up, oldest first, because the spool was full or they were too old."""
        self.damaged = 0
        """Ends of segments that couldn't be read: one each, however many records were in it."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_age = max_age_seconds
        self._segment_bytes = min(segment_bytes, max_bytes // 4)
        self._clock = clock
        self._mutex = threading.Lock()
        self._last_take: tuple[_Segment, int, int, int] | None = None
        """Segment, where it began, how many records, and `damaged` before it."""
        self._active: int | None = None
        """Descriptor of the newest segment while it is appended to."""
        _make(folder)
        self._lock = _hold(folder)
        self._segments = [
            _Segment(path, path.stat().st_size, path.stat().st_mtime)
            for path in sorted(folder.glob(f"*{_SUFFIX}"))
            if path.stem.isdecimal()
        ]
        self._next_number = 1 + max((int(segment.path.stem) for segment in self._segments), default=0)
        self.found_bytes = self.size_bytes
        """What an earlier run left."""

    @property
    def size_bytes(self) -> int:
        """Size of all segments."""
        return sum(segment.size for segment in self._segments)

    @property
    def waiting_bytes(self) -> int:
        """Of which not handed out yet."""
        return sum(segment.size - segment.taken for segment in self._segments)

    def append(self, records: Sequence[bytes]) -> None:
        """Writes records and waits until they are safe on disk. Raises `OSError`: then none of them is kept."""
        data = b"".join(_HEADER.pack(len(record), zlib.crc32(record)) + record for record in records)
        with self._mutex:
            # Somebody may remove the folder's files: a segment without a name would keep nothing.
            if (
                self._active is None
                or self._segments[-1].size >= self._segment_bytes
                or os.fstat(self._active).st_nlink == 0
            ):
                self._begin_segment()
            assert self._active is not None
            segment = self._segments[-1]
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._active, view) :]
                os.fdatasync(self._active)
            except OSError:
                self._undo_append(segment)
                raise
            segment.size += len(data)
            segment.modified = self._clock()
        self.trim()

    def take(self, limit: int) -> list[bytes]:
        """The oldest records not handed out yet, at most `limit`; none: there are none. Raises `OSError`."""
        with self._mutex:
            for segment in list(self._segments):
                records: list[bytes] = []
                begin, damaged = segment.taken, self.damaged
                for end, record in _records(segment):
                    segment.taken = end
                    records.append(record)
                    self._last_take = segment, begin, len(records), damaged
                    if len(records) == limit:
                        return records
                if segment.taken < segment.size:
                    _log.warning(
                        "%s: the last %d bytes can't be read (the process was killed while it wrote, or the disk is "
                        "damaged); they are left out",
                        segment.path,
                        segment.size - segment.taken,
                    )
                    self.damaged += 1
                    segment.taken = segment.size
                if records:
                    return records
            return []

    def give_back(self) -> None:
        """What was taken last isn't stored: it is handed out again, and given up with its segment like the rest."""
        with self._mutex:
            if self._last_take is None:
                return
            segment, begin, count, damaged = self._last_take
            self._last_take = None
            if segment in self._segments:
                segment.taken, self.damaged = begin, damaged
            else:
                self.dropped += count

    def stored(self) -> None:
        """All that was taken is where it belongs: it is forgotten here. Raises `OSError`."""
        with self._mutex:
            self._last_take = None
            for segment in list(self._segments):
                if segment.taken < segment.size:
                    return
                if self._active is None or segment is not self._segments[-1]:
                    self._remove(segment)
                elif segment.size >= _TRUNCATE_BYTES:
                    os.ftruncate(self._active, 0)
                    segment.size = segment.taken = 0

    def trim(self) -> None:
        """Gives up the oldest segments beyond the bounds of size and age."""
        with self._mutex:
            oldest_allowed = self._clock() - self._max_age
            while self._segments:
                segment = self._segments[0]
                too_old = segment.modified < oldest_allowed and segment.size > 0
                if not too_old and self.size_bytes <= self._max_bytes:
                    return
                lost = sum(1 for _ in _records(segment))
                self.dropped += lost
                if segment is self._segments[-1] and self._active is not None:
                    os.close(self._active)
                    self._active = None
                self._remove(segment)
                _log.warning(
                    "%s: %d predictions are lost: %s; is the database away for long?",
                    segment.path,
                    lost,
                    "they are too old" if too_old else f"the spool holds more than {self._max_bytes} bytes",
                )

    def close(self) -> None:
        """Lets the folder go. Segments with nothing left in them are removed."""
        with self._mutex:
            if self._active is not None:
                os.close(self._active)
                self._active = None
        with contextlib.suppress(OSError):  # What can't be removed is read again, and ignored, at the next start.
            self.stored()
        os.close(self._lock)

    def _begin_segment(self) -> None:
        _make(self._folder)
        path = self._folder / f"{self._next_number:016d}{_SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._active is not None:
            os.close(self._active)
        self._active = descriptor
        self._next_number += 1
        self._segments.append(_Segment(path, 0, self._clock()))
        sync_folder(self._folder)

    def _undo_append(self, segment: _Segment) -> None:
        """Cuts off what was written in part. Where that fails too, the segment is left: `size` bytes of it count."""
        assert self._active is not None
        try:
            os.ftruncate(self._active, segment.size)
        except OSError:
            os.close(self._active)
            self._active = None

    def _remove(self, segment: _Segment) -> None:
        segment.path.unlink(missing_ok=True)
        self._segments.remove(segment)


def _records(segment: _Segment) -> Iterator[tuple[int, bytes]]:
    """Records not handed out yet, each with the position of its end; ends early where one is damaged."""
    try:
        file = segment.path.open("rb")
    except FileNotFoundError:
        return
    with file:
        position = segment.taken
        file.seek(position)
        while position + _HEADER.size <= segment.size:
            header = file.read(_HEADER.size)
            if len(header) != _HEADER.size:
                return
            length, checksum = _HEADER.unpack(header)
            position += _HEADER.size + length
            if length > _MAX_RECORD_BYTES or position > segment.size:
                return
            record = file.read(length)
            if len(record) != length or zlib.crc32(record) != checksum:
                return
            yield position, record


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _hold(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise PredictionLogError(
            f"{folder} is in use by another process: give each windlass-server a state directory of its own"
        ) from None
    return descriptor
