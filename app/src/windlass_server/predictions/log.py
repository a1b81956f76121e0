"""The prediction log: every answered prediction that is sampled ends in the database once, and no answer waits for it.

`record` puts a prediction into a bounded queue. One thread writes what is queued to the spool on disk, each second or
500 rows, and waits until it is safe there. Another stores what is in the spool in the database, by insert-or-ignore on
our id, and only then forgets it. So an outage isn't a special case: the spool grows, and shrinks when the database is
back; and whatever is killed, and wherever, the next start stores what is left, without doubles.

What can be lost, each with its counter in `counters.lost`:

- queue: more than `max_queued` rows came while the disk took none;
- spool: the database was away for longer than the spool's bounds of size and age hold; the oldest go;
- disk: the spool couldn't be written (disk full) and the database took no rows either;
- damaged: the disk gave other bytes back, or the process was killed while it wrote (counted once for each place);
- refused: the database refused the row for what is in it;
- closed: recorded after `close`.

And, uncounted: what was recorded in the last second before a SIGKILL or the loss of power; the spool itself, when the
folder of state goes with its replica while the database is away.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from windlass_server.garbage import imported_late

from .encoding import decode, encode
from .prediction import Prediction
from .settings import SPOOL_NAME, PredictionLogSettings, database_url, is_default, is_off
from .spool import Spool

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from .database import Database

Status = Literal["ok", "unavailable", "disabled"]
Loss = Literal["queue", "spool", "disk", "damaged", "refused", "closed"]

_STUCK_SECONDS = 10.0
"""A database that hasn't answered for so long is unavailable, even if it hasn't failed yet."""
_JUST_STARTED = "it isn't connected yet"
_log = logging.getLogger(__name__)


@dataclass
class Counters:
    """Since the start; they only grow."""

    recorded: int = 0
    """Taken by `record`, lost ones included."""
    sampled_out: int = 0
    """Not kept, since the sample is a share."""
    spooled: int = 0
    """Safe on disk, or there until they were stored."""
    stored: int = 0
    """In the database."""
    replayed: int = 0
    """Of those: stored late, after an outage or a restart."""
    expired: int = 0
    """Deleted from the database for its bounds of size and age."""
    lost: dict[Loss, int] = field(
        default_factory=lambda: {"queue": 0, "spool": 0, "disk": 0, "damaged": 0, "refused": 0, "closed": 0}
    )


class PredictionLog:
    """A `PredictionSink`. Made by `open`; to be closed."""

    def __init__(
        self, settings: PredictionLogSettings, spool: Spool | None, target: Callable[[], URL | None] = lambda: None
    ) -> None:
        self.counters = Counters()
        self._settings = settings
        self._spool = spool
        self._target = target
        self._database: Database | None = None
        """Made by its thread."""
        self._mutex = threading.Lock()
        self._queue: deque[Prediction] = deque()
        self._unspooled: deque[bytes] = deque()
        """Records that the disk didn't take; the database may."""
        self._flush_due = threading.Event()
        self._news = threading.Event()
        """For the database's thread: there may be something to store, or it is to end."""
        self._closing = threading.Event()
        self._all_spooled = threading.Event()
        self._deadline = 0.0
        self._problem = _JUST_STARTED
        self._attempt_since: float | None = None
        self._expire_at = 0.0
        self._threads: list[threading.Thread] = []

    @classmethod
    def open(cls, url: str | None, state_dir: Path, settings: PredictionLogSettings | None = None) -> PredictionLog:
        """Starts the log; doesn't wait for the database. `url`: see `database_url`; `off` disables it. Raises
        `PredictionLogError` for a URL that can't be used and a folder of state that another process uses.
        """
        settings = settings or PredictionLogSettings()
        if is_off(url):
            return cls(settings, None)
        if not is_default(url):
            database_url(url, state_dir)  # raises for a wrong one
        spool = Spool(
            state_dir / SPOOL_NAME,
            max_bytes=settings.max_bytes,
            max_age_seconds=settings.max_age_seconds,
            segment_bytes=settings.segment_bytes,
        )
        log = cls(settings, spool, lambda: database_url(url, state_dir))
        log._start()
        return log

    def record(self, prediction: Prediction) -> None:
        """Takes a prediction, from any thread. Never blocks and never raises."""
        if self._spool is None:
            return
        with self._mutex:
            if not _sampled(prediction.id, self._settings.sample):
                self.counters.sampled_out += 1
                return
            self.counters.recorded += 1
            if self._closing.is_set():
                self.counters.lost["closed"] += 1
            elif len(self._queue) >= self._settings.max_queued:
                self.counters.lost["queue"] += 1
            else:
                self._queue.append(prediction)
        if len(self._queue) >= self._settings.batch_rows:
            self._flush_due.set()

    def status(self) -> Status:
        """`unavailable`: predictions wait in the spool, nothing is lost yet; `problem` says why."""
        if self._spool is None:
            return "disabled"
        return "unavailable" if self.problem else "ok"

    @property
    def problem(self) -> str:
        """Why the database is unavailable, in a sentence; empty when it isn't."""
        if self._spool is None:
            return ""
        since = self._attempt_since
        if not all(thread.is_alive() for thread in self._threads):
            reason = "it is closed" if self._closing.is_set() else "its thread has ended by a fault of ours"
        elif since is not None and time.monotonic() - since > _STUCK_SECONDS:
            reason = f"it hasn't answered for {time.monotonic() - since:.0f} s"
        else:
            reason = self._problem
        if not reason:
            return ""
        name = f" {self._database.name}" if self._database is not None else ""
        return f"the prediction log's database{name} can't be written: {reason}"

    @property
    def spool_bytes(self) -> int:
        """What waits on disk for the database; up to 256 KiB of it may be stored already."""
        return self._spool.size_bytes if self._spool else 0

    def close(self, timeout: float = 10.0) -> None:
        """Takes no more, and stores what was taken within `timeout` seconds; what is left then stays in the spool for
        the next start. Closing twice is harmless.
        """
        if self._spool is None or self._closing.is_set():
            return
        self._deadline = time.monotonic() + timeout
        with self._mutex:
            self._closing.set()
        self._flush_due.set()
        self._news.set()
        for thread in self._threads:
            thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._unspooled:
            self.counters.lost["disk"] += len(self._unspooled)
            _log.error("%d predictions are lost: neither the disk nor the database took them", len(self._unspooled))
        if any(thread.is_alive() for thread in self._threads):
            _log.warning("%s; what isn't stored is kept in the spool for the next start", self.problem)
            return  # The spool is theirs until the process ends.
        self._spool.close()
        if self._database is not None:
            self._database.reset()

    def _start(self) -> None:
        for name, run in (("predictions-spool", self._run_spool), ("predictions-database", self._run_database)):
            # Daemons: a database that hangs doesn't keep the process from ending; the spool has the rows.
            thread = threading.Thread(target=run, name=name, daemon=True)
            self._threads.append(thread)
        for thread in self._threads:
            thread.start()

    # The spool's thread.

    def _run_spool(self) -> None:
        while not self._closing.is_set():
            self._flush_due.wait(self._settings.flush_seconds)
            self._flush_due.clear()
            self._flush()
        # After `closing` nothing is queued any more.
        self._flush()
        self._all_spooled.set()
        self._news.set()

    def _flush(self) -> None:
        assert self._spool is not None
        with self._mutex:
            batch, self._queue = self._queue, deque()
            # What the disk didn't take before; there may be space again.
            records, self._unspooled = [*self._unspooled], deque()
        left = len(records)
        records += [encode(prediction) for prediction in batch]
        if records:
            written = 0
            try:
                # In parts: a disk that is nearly full takes some.
                for start in range(0, len(records), self._settings.batch_rows):
                    part = records[start : start + self._settings.batch_rows]
                    self._spool.append(part)
                    written += len(part)
                    self.counters.spooled += len(part)
            except OSError as error:
                self._keep_in_memory(records[written:], error, first=not left)
            self._news.set()
        self._spool.trim()
        self.counters.lost["spool"] = self._spool.dropped
        self.counters.lost["damaged"] = self._spool.damaged

    def _keep_in_memory(self, records: Sequence[bytes], error: OSError, *, first: bool) -> None:
        if first:
            _log.error(
                "the prediction log's spool can't be written (%s); free some space in the state directory", error
            )
        with self._mutex:
            self._unspooled.extend(records)
            self._bound_memory()

    def _bound_memory(self) -> None:
        """With the mutex held."""
        excess = max(0, len(self._unspooled) - self._settings.max_queued)
        for _ in range(excess):
            self._unspooled.popleft()
        self.counters.lost["disk"] += excess

    # The database's thread.

    def _run_database(self) -> None:
        self._news.wait(self._settings.first_wait_seconds)
        # Here, not above: SQLAlchemy takes 0.2 s, and a replica is to be ready without waiting for that.
        from .database import OUTAGE, Database

        imported_late()
        target = self._target()
        assert self._spool is not None
        assert target is not None
        self._database = Database(target)
        delay = self._settings.retry_seconds
        late = self._spool.found_bytes > 0
        batch: list[bytes] = []
        in_memory = False
        while not (closing := self._closing.is_set()) or time.monotonic() < self._deadline:
            all_spooled = self._all_spooled.is_set()  # Looked at first: nothing comes after it.
            self._attempt_since = time.monotonic()
            try:
                self._database.prepare()
                if not batch:
                    batch, in_memory = self._next_batch()
                if batch:
                    self._store(batch, late=late)
                    batch, in_memory, idle = [], False, False
                    self._spool.stored()
                else:
                    late, idle = False, True
                    self._database.ping()
                self._expire()
            except OUTAGE as error:
                late = True
                self._lost_sight(error)
                # If they are in the database after all, it ignores them the second time.
                if in_memory:
                    self._give_back(batch)
                elif batch:
                    self._spool.give_back()
                batch, in_memory = [], False
                if closing:
                    return
                self._closing.wait(delay)
                delay = min(delay * 2, self._settings.max_retry_seconds)
                continue
            delay = self._settings.retry_seconds
            self._in_sight()
            if idle:
                if closing and all_spooled:
                    return
                self._news.wait(self._settings.ping_seconds)
                self._news.clear()

    def _next_batch(self) -> tuple[list[bytes], bool]:
        """What the disk didn't take comes first: it is the least safe; and whether it is such."""
        assert self._spool is not None
        with self._mutex:
            count = min(len(self._unspooled), self._settings.batch_rows)
            batch = [self._unspooled.popleft() for _ in range(count)]
        return (batch, True) if batch else (self._spool.take(self._settings.batch_rows), False)

    def _give_back(self, batch: Sequence[bytes]) -> None:
        with self._mutex:
            self._unspooled.extendleft(reversed(batch))
            self._bound_memory()

    def _store(self, batch: Sequence[bytes], *, late: bool) -> None:
        assert self._database is not None
        refused = self._database.store([decode(record) for record in batch])
        self.counters.stored += len(batch) - refused
        self.counters.replayed += len(batch) - refused if late else 0
        if refused:
            self.counters.lost["refused"] += refused
            _log.error("the database %s refused %d predictions for what is in them", self._database.name, refused)

    def _expire(self) -> None:
        assert self._database is not None
        if time.monotonic() >= self._expire_at:
            before = time.time() - self._settings.max_age_seconds
            expired = self._database.expire(max_bytes=self._settings.max_bytes, before=before)
            self.counters.expired += expired
            if not expired:
                self._expire_at = time.monotonic() + self._settings.expire_seconds

    def _lost_sight(self, error: Exception) -> None:
        assert self._database is not None
        self._attempt_since = None
        self._database.reset()
        cause = getattr(error, "orig", None) or error
        reason = " ".join(str(cause).split()) or type(cause).__name__
        if not self._problem or self._problem == _JUST_STARTED:
            _log.warning(
                "the prediction log's database %s is away (%s); predictions wait on disk", self._database.name, reason
            )
        self._problem = reason

    def _in_sight(self) -> None:
        self._attempt_since = None
        if self._problem and self._database is not None:
            _log.info("predictions are stored in %s", self._database.name)
        self._problem = ""


def _sampled(prediction_id: str, share: float) -> bool:
    return share >= 1 or zlib.crc32(prediction_id.encode("utf-8", "replace")) < share * 2**32
