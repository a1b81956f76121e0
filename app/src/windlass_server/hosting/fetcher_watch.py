"""The replica's side of the fetcher: whether one is at work on the folder of models, and how far a version's files are.

The two share nothing but that folder, which this side only reads.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from windlass_contract.document import Document, DocumentError
from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.fetching import (
    MAX_NOTE_BYTES,
    OWN_FOLDER,
    SIGN_NAME,
    SIGNLESS_SECONDS,
    FetcherSign,
    FetchNote,
    note_path,
)
from windlass_contract.manifest import MANIFEST_NAME
from windlass_contract.plan import PlannedVersion
from windlass_server.hosting.order import Key

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0

D = TypeVar("D", bound=Document)


class NotFetchedError(Exception):
    """A version's files are not there yet. Without `failure` they are on their way."""

    def __init__(self, failure: Failure | None, progress: float | None = None) -> None:
        super().__init__(failure.message if failure is not None else "its files are being fetched")
        self.failure = failure
        self.progress = progress
        """Share of the bytes that are there; None: nobody works on it."""


@dataclass(frozen=True)
class _Sign:
    changed_ns: int
    seen_at: float
    """When it was first seen so, by the monotonic clock."""


class FetcherWatch:
    """Looks at what a fetcher leaves in the folder of models."""

    def __init__(self, models: Path) -> None:
        self._models = models
        self._sign: _Sign | None = None
        self._schemes: tuple[str, ...] | None = None

    @property
    def schemes(self) -> tuple[str, ...]:
        """Of the URIs that the fetcher at work may get; empty: none is at work."""
        return self._schemes or ()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            found = await asyncio.to_thread(self._look)
            if found != self._schemes:
                log.info("fetcher", schemes=list(found))
            self._schemes = found
            await asyncio.sleep(LOOK_SECONDS)

    async def arrived(self, key: Key, planned: PlannedVersion) -> None:
        """Returns when there is something to verify. Raises `NotFetchedError`."""
        if planned.uri is None:
            return
        place = self._models / (planned.path or f"{key.model}/{key.version}")
        there, note = await asyncio.to_thread(self._state_of, place, key.digest)
        if there:
            return
        scheme = planned.uri.partition("://")[0]
        if self._schemes is not None and scheme not in self._schemes:
            raise NotFetchedError(_nobody(planned.uri, place, self._schemes))
        if note is None:
            raise NotFetchedError(None, 0.0)
        raise NotFetchedError(note.failure, None if note.failure is not None else note.progress)

    def _state_of(self, place: Path, digest: str) -> tuple[bool, FetchNote | None]:
        """Whether a version is in its place, and what the fetcher says of it if not."""
        if (place / MANIFEST_NAME).exists():
            return True, None
        return False, _read(FetchNote, self._models / note_path(digest))

    def _look(self) -> tuple[str, ...]:
        path = self._models / OWN_FOLDER / SIGN_NAME
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            self._sign = None
            return ()
        now = time.monotonic()
        if self._sign is None:
            # Nothing to compare with yet: the file's time decides, as far as this machine's clock is the writer's.
            age = min(max(time.time() - changed / 1e9, 0.0), SIGNLESS_SECONDS + 1)
            self._sign = _Sign(changed, now - age)
        elif self._sign.changed_ns != changed:
            self._sign = _Sign(changed, now)
        if now - self._sign.seen_at > SIGNLESS_SECONDS:
            return ()
        sign = _read(FetcherSign, path)
        return tuple(sign.schemes) if sign is not None else self.schemes


def _nobody(uri: str, place: Path, schemes: tuple[str, ...]) -> Failure:
    scheme = uri.partition("://")[0]
    found = (
        f"the fetcher at work may get {', '.join(f'{each}://' for each in schemes)} only"
        if schemes
        else "no fetcher is at work on the folder of models"
    )
    return Failure(
        gate=Gate.FETCH,
        reason=Reason.NO_FETCHER,
        message=f"{place} isn't there and is to be fetched from {uri}, but {found}: look at its log, or set it up for "
        f"{scheme}:// (docs/artifacts.md)",
    )


def _read(kind: type[D], path: Path) -> D | None:
    """None while there is none. A fetcher replaces these files at once; one that can't be read is said once a look."""
    try:
        with path.open("rb") as file:
            return kind.parse_json(file.read(MAX_NOTE_BYTES + 1), str(path), MAX_NOTE_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, DocumentError) as error:
        log.warning("what the fetcher left can't be read", file=str(path), reason=str(error))
        return None
