"""Follows a plan, and brings the files of its versions, each in a task of its own that tries until they are there."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from windlass_contract.document import Document
from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.fetching import (
    OWN_FOLDER,
    SIGN_NAME,
    SIGN_SECONDS,
    FetcherSign,
    FetchNote,
    note_path,
)
from windlass_contract.plan import ServingPlan
from windlass_contract.report import ServingReport
from windlass_server.fetching.download import Bounds, BusyError, Wanted, download, is_there, remove_leftovers
from windlass_server.fetching.pruning import prune, read_note
from windlass_server.fetching.sources import MAX_MESSAGE, FetchError, Source

log = structlog.get_logger(__name__)

AT_ONCE = 2
"""Versions that are fetched at the same time."""
RETRY_FIRST_SECONDS, RETRY_LAST_SECONDS = 1.0, 60.0
NOTE_SECONDS = 1.0
"""Between two notes of progress."""
LOG_SECONDS = 10.0
"""Between two lines of progress."""
CHECK_SECONDS = 30.0
"""Between two looks at whether what was fetched is still there."""
_OWN = secrets.token_hex(4)
"""Tells this process' files from those of others on the same volume."""
LEFTOVER_SECONDS = 3600.0
"""For which nobody touched what another process left."""
_LEFT = re.compile(r"([0-9a-f]{64})\.(part|json)")


class Fetcher:
    """Implements what a `Follower` needs of whom it follows a plan for."""

    def __init__(
        self,
        server: str,
        models: Path,
        sources: Mapping[str, Source],
        bounds: Bounds,
        keep_seconds: float,
        revision: str = "",
    ) -> None:
        """`sources`: by scheme. `keep_seconds`: for which a version stays that no plan names any more. `revision`: of
        the Pod template, as its replica's."""
        self.server = server
        self.plan: ServingPlan | None = None
        self._models = models
        self._sources = sources
        self._bounds = bounds
        self._keep_seconds = keep_seconds
        self._revision = revision
        self._tasks: dict[Wanted, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        self._news = asyncio.Event()
        self._begun = False

    # --- what a follower asks ---

    def apply(self, plan: ServingPlan) -> None:
        """Takes a plan."""
        self.plan = plan
        log.info("plan taken", epoch=plan.epoch, fetched=[str(each) for each in self._wanted(plan)])
        self._news.set()

    def begin(self) -> None:
        """From now on files are fetched: the plan held is as new as can be had."""
        self._begun = True
        self._news.set()

    def renew(self, epoch: int, models: list[str]) -> None:
        """A fetcher has no traffic that could be renewed."""

    def report(self, *, ready: bool, draining: bool, plan_conflict: bool) -> ServingReport:
        """A fetcher is no replica: it reports nothing."""
        raise NotImplementedError("a fetcher doesn't report")

    # --- its work ---

    async def run(self) -> None:
        """Fetches until cancelled. Raises `OSError` when the folder of models can't be written."""
        await asyncio.to_thread(self._prepare)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._give_signs())
            tasks.create_task(self._tidy_now_and_then())
            tasks.create_task(self._follow())

    def _prepare(self) -> None:
        (self._models / OWN_FOLDER).mkdir(mode=0o755, exist_ok=True)
        self._sign()

    def _sign(self) -> None:
        write_note(self._models / OWN_FOLDER / SIGN_NAME, FetcherSign(schemes=sorted(self._sources)))

    async def _give_signs(self) -> None:
        while True:
            await asyncio.sleep(SIGN_SECONDS)
            try:
                await asyncio.to_thread(self._sign)
            except OSError as error:
                log.warning("no sign of life can be left", folder=str(self._models), reason=error.strerror)

    async def _follow(self) -> None:
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if self.plan is not None and self._begun:
                    await self._take(self._wanted(self.plan), named_by(self.plan))
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _wanted(self, plan: ServingPlan) -> list[Wanted]:
        return wanted_of(plan.of_revision(self._revision))

    async def _take(self, wanted: list[Wanted], kept: set[str]) -> None:
        ended = {each: task for each, task in self._tasks.items() if each not in wanted}
        for task in ended.values():
            task.cancel()
        await asyncio.gather(*ended.values(), return_exceptions=True)
        await asyncio.to_thread(self._tidy, kept, {each.digest for each in ended} - kept)
        self._tasks = {each: self._tasks.get(each) or asyncio.create_task(self._bring(each)) for each in wanted}

    async def _tidy_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if self.plan is None or not self._begun:
                continue
            try:
                await asyncio.to_thread(self._tidy, named_by(self.plan), set())
            except OSError as error:
                log.warning("what nobody wants can't be removed", folder=str(self._models), reason=error.strerror)

    def _tidy(self, kept: set[str], ended: set[str]) -> None:
        """Removes what attempts at versions that nobody wants any more left: `ended`, and what was left by somebody
        before and is old, since another server's fetcher may share the volume. Versions go by their own rule."""
        for entry in (self._models / OWN_FOLDER).iterdir():
            found = _LEFT.fullmatch(entry.name)
            digest = f"sha256:{found[1]}" if found else ""
            if found is None or digest in kept:
                continue
            with contextlib.suppress(FileNotFoundError):  # another fetcher was faster
                note = read_note(entry) if found[2] == "json" else None
                if note is not None and note.model is not None:
                    if prune(self._models, digest, self._keep_seconds):
                        log.info("removed", version=f"{note.model}/{note.version}", digest=digest)
                    continue
                if digest not in ended and time.time() - entry.stat().st_mtime < LEFTOVER_SECONDS:
                    continue
                if found[2] == "part":
                    log.info("leftovers removed", digest=digest)
                    remove_leftovers(self._models, digest)
                else:
                    entry.unlink()

    async def _bring(self, wanted: Wanted) -> None:
        """Until cancelled: what was removed is brought again."""
        attempts = 0
        while True:
            try:
                if not await asyncio.to_thread(is_there, self._models, wanted):
                    async with self._room:
                        await self._fetch(wanted)
                attempts = 0
                await self._note(wanted, 1.0, None)
                await asyncio.sleep(CHECK_SECONDS)
            except BusyError:
                await asyncio.sleep(NOTE_SECONDS)
            except FetchError as error:
                attempts += 1
                await self._failed(wanted, error.failure, attempts)
            except Exception as error:
                log.exception("fetching broke", version=str(wanted))
                attempts += 1
                message = f"this fetcher couldn't bring {wanted}: {type(error).__name__}: {error}"
                failure = Failure(gate=Gate.FETCH, reason=Reason.FETCH_FAILED, message=message[:MAX_MESSAGE])
                await self._failed(wanted, failure, attempts)

    async def _failed(self, wanted: Wanted, failure: Failure, attempts: int) -> None:
        """Says why, and waits before the next attempt."""
        seconds = min(RETRY_FIRST_SECONDS * 2.0 ** min(attempts - 1, 10), RETRY_LAST_SECONDS)
        about = {"version": str(wanted), "reason": failure.reason, "message": failure.message}
        log.warning("not fetched", **about, retry_seconds=seconds)
        await self._note(wanted, 0.0, failure)
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311

    async def _fetch(self, wanted: Wanted) -> None:
        """Returns when it is in its place. Raises `FetchError`, `BusyError`."""
        scheme = wanted.uri.partition("://")[0]
        source = self._sources.get(scheme)
        if source is None:
            raise _unknown_scheme(wanted, scheme, self._sources)
        telling = _Telling(self, wanted)
        async with telling:
            put = await download(self._models, wanted, source, self._bounds, telling.progress)
        if put:
            await self._note(wanted, 1.0, None, put=True)
        log.info("fetched", version=str(wanted), seconds=round(telling.seconds, 2))

    async def _note(self, wanted: Wanted, progress: float, failure: Failure | None, *, put: bool = False) -> None:
        """`put`: a fetcher has put it into its place just now; what was said of that before is said again."""
        try:
            await asyncio.to_thread(self._write_note, wanted, progress, failure, put)
        except OSError as error:
            log.warning("no note can be left for the replicas", folder=str(self._models), reason=error.strerror)

    def _write_note(self, wanted: Wanted, progress: float, failure: Failure | None, put: bool) -> None:
        path = self._models / note_path(wanted.digest)
        model, version = (wanted.model, wanted.version) if put else (None, None)
        if progress == 1.0 and not put and (before := read_note(path)) is not None:
            model, version = before.model, before.version
        write_note(
            path,
            FetchNote(
                digest=wanted.digest, uri=wanted.uri, progress=progress, failure=failure, model=model, version=version
            ),
        )

    async def note_progress(self, wanted: Wanted, progress: float) -> None:
        """Leaves word of how far it is."""
        await self._note(wanted, progress, None)


class _Telling:
    """Tells of an attempt's progress while it lasts."""

    def __init__(self, fetcher: Fetcher, wanted: Wanted) -> None:
        self._fetcher = fetcher
        self._wanted = wanted
        self._share: float | None = None
        """None: it has not begun, since another fetcher is at it."""
        self._began = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def progress(self, share: float) -> None:
        """Is called at the beginning, and with each piece."""
        if self._share is None:
            log.info("fetching", version=str(self._wanted), uri=self._wanted.uri, digest=self._wanted.digest)
        self._share = share

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._tell())

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _tell(self) -> None:
        logged = self._began
        while True:
            await asyncio.sleep(NOTE_SECONDS)
            if not self._share:
                continue  # nothing came yet: what was said of the attempt before stays
            await self._fetcher.note_progress(self._wanted, self._share)
            if time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                log.info("fetching", version=str(self._wanted), progress=round(self._share, 3))


def named_by(plan: ServingPlan) -> set[str]:
    """Digests of all that a plan wants fetched by anybody: replicas of another revision may share the volume."""
    revisions = {revision for model in plan.models.values() for revision in model.revisions}
    return {each.digest for revision in ("", *revisions) for each in wanted_of(plan.of_revision(revision))}


def wanted_of(plan: ServingPlan) -> list[Wanted]:
    """What a plan wants fetched, the most urgent first: committed, candidate, previous."""
    found: list[tuple[int, Wanted]] = []
    for name, model in plan.models.items():
        for planned in model.versions:
            if planned.uri is not None:
                rank = {model.committed: 0, model.candidate: 1}.get(planned.version, 2)
                found.append((rank, Wanted(name, planned.version, planned.digest, planned.uri)))
    return [each for _, each in sorted(found, key=lambda item: (item[0], item[1].model, -item[1].version))]


def write_note(path: Path, note: Document) -> None:
    """Replaces a note at once: who reads sees the old or the new one. Raises `OSError`."""
    part = path.with_name(f".{path.name}.{_OWN}")
    part.write_text(note.model_dump_json(by_alias=True, exclude_none=True), encoding="utf-8")
    part.chmod(0o644)
    part.replace(path)


def _unknown_scheme(wanted: Wanted, scheme: str, sources: Mapping[str, Source]) -> FetchError:
    known = ", ".join(f"{each}://" for each in sorted(sources))
    return FetchError(
        Reason.NO_FETCHER, f"{wanted.uri}: this fetcher isn't set up for {scheme}://, but for {known or 'nothing'}"
    )
