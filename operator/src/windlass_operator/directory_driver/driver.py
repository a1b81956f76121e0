"""The directory driver: one scan of the directory, one worker per server, and the lock that says who acts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
import watchfiles
from pydantic import TypeAdapter, ValidationError

from windlass_contract.document import DocumentError
from windlass_contract.identifiers import ObjectName
from windlass_contract.model_version import ModelVersionStatus
from windlass_operator.control.hub import Hub
from windlass_operator.driving.aside import Aside
from windlass_operator.driving.durable import HoldLostError, StoreError
from windlass_operator.driving.people import CONFLICT, stalled
from windlass_operator.driving.server_worker import ServerWorker, Tools
from windlass_operator.driving.view import ServerView
from windlass_operator.engine.interface import Event, Observation, Outcome
from windlass_operator.metrics import Metrics

from .catalogue import Catalogue, Problem, Remembered, build_remembered
from .events import EventLog
from .files import FileProblemError, remove_leftovers
from .lock import StateLock
from .memory import load_memory, save_memory
from .replicas import ReplicaFiles
from .samples import SamplesReader
from .scan import DirectoryScanner, Scan
from .statuses import FILE_INVALID, StatusFiles
from .store import FolderStore, StateStore
from .telling import FolderPeople
from .tokens import ensure_token
from .view import view_of

STANDBY_SECONDS = 0.1
"""How often one that stands by tries to take over."""
_RETRY_SECONDS = 1.0
_STUCK_SECONDS = 60.0
_NAME: TypeAdapter[str] = TypeAdapter(ObjectName)


@dataclass(frozen=True)
class Folders:
    """Where the driver's own files are."""

    state: Path
    tokens: Path
    """Control tokens; may be mounted, and read-only."""

    @property
    def servers(self) -> Path:
        """Durable objects."""
        return self.state / "servers"

    @property
    def status(self) -> Path:
        """Status files."""
        return self.state / "status"

    @property
    def replicas(self) -> Path:
        """What replicas report, for people to look at."""
        return self.state / "replicas"

    def create(self) -> None:
        """Makes what is missing. Raises `OSError`."""
        for folder in (self.state, self.servers, self.status, self.replicas):
            folder.mkdir(parents=True, exist_ok=True)
        self.tokens.mkdir(mode=0o700, parents=True, exist_ok=True)


class DirectoryDriver:
    """Drives the rollout engine from the ModelVersion files in `directory`."""

    def __init__(
        self,
        directory: Path,
        folders: Folders,
        hub: Hub,
        reconcile: Callable[[Observation], Outcome],
        metrics: Metrics,
        *,
        servers: tuple[str, ...] = (),
        poll_seconds: float = 2.0,
    ) -> None:
        self._directory = directory
        self._folders = folders
        self._hub = hub
        self._reconcile = reconcile
        self._metrics = metrics
        self._named = servers
        self._poll_seconds = poll_seconds
        self._log = structlog.get_logger("windlass.directory")
        self.lock = StateLock(folders.state / "lock")
        self._store = StateStore(folders.servers, self.lock)
        self._events = EventLog(folders.state / "events.jsonl")
        self._turned = time.monotonic()
        self._acting = False
        self._forget()
        hub.on_news = self._wake

    def _forget(self) -> None:
        """Begins anew: nothing of a time when another acted is trusted."""
        self._scanner = DirectoryScanner(self._directory)
        self._samples = SamplesReader(self._directory)
        self._memory: Mapping[str, Remembered] = {}
        self._catalogue = Catalogue()
        self._build = build_remembered()
        self._views: dict[str, ServerView] = {}
        self._settled = False
        """Whether every file of the directory was counted by the last scan."""
        self._workers: dict[str, ServerWorker] = {}
        self._statuses: dict[str, Mapping[str, ModelVersionStatus]] = {}
        self._status_files = StatusFiles(self._folders.status)
        self._writing = asyncio.Lock()
        self._aside = Aside(self._tell)
        self._events_due: list[tuple[datetime, Event]] = []
        self._said: set[tuple[str, str]] = set()
        self._without_token: set[str] = set()
        self._changed = asyncio.Event()

    # Who acts.

    async def run(self, stop: asyncio.Event, on_acting: Callable[[], Awaitable[None]]) -> None:
        """Acts whenever it holds the lock, until `stop`. `on_acting` is called first each time. Raises `OSError`."""
        while await self._acquire(stop):
            await on_acting()
            try:
                await self._act(stop)
            finally:
                self._acting = False
                self._metrics.acting.set(0)
                self._hub.rest("this operator doesn't act: it stops, or another one took over")
                self.lock.release()

    def acting(self) -> bool:
        """Whether it is the one that acts, and turns."""
        return self._acting and self.lock.holds() and self.turning()

    def turning(self) -> bool:
        """Whether its loop came round lately."""
        return time.monotonic() - self._turned < _STUCK_SECONDS

    async def _acquire(self, stop: asyncio.Event) -> bool:
        """Waits for the lock; False: asked to stop before."""
        waiting = False
        while not stop.is_set():
            self._turned = time.monotonic()
            if self.lock.holds() or self.lock.try_acquire():
                self._log.info("lock.acquired", lock=str(self.lock.path))
                return True
            if not waiting:
                waiting = True
                self._hub.rest("another operator acts on this state; this one stands by")
                self._log.info("lock.waiting", lock=str(self.lock.path), reason="another operator acts; standing by")
            await _wait(stop, STANDBY_SECONDS)
        return False

    async def _act(self, stop: asyncio.Event) -> None:
        self._forget()
        await asyncio.to_thread(self._prepare)
        self._hub.act()
        self._tools = Tools(
            store=FolderStore(self._store),
            hub=self._hub,
            reconcile=self._reconcile,
            view=lambda server: self._views[server],
            people=FolderPeople(
                ReplicaFiles(self._folders.replicas, time.monotonic), self._events, self._show, self._writing
            ),
            metrics=self._metrics,
            holds=self.lock.holds,
            acting_since=time.monotonic(),
        )
        stopping = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(stopping))
                group.create_task(self._follow(stopping, group))
                group.create_task(self._aside.run())
                group.create_task(self._end(stop, stopping))
        except* HoldLostError as errors:
            self._log.error("lock.lost", error=str(errors.exceptions[0]))

    async def _end(self, stop: asyncio.Event, stopping: asyncio.Event) -> None:
        """Lets every task finish what it is at, a write above all."""
        await stop.wait()
        stopping.set()
        self._changed.set()
        for worker in self._workers.values():
            worker.wake()

    def _prepare(self) -> None:
        """Reads what is there from before. Blocks."""
        for folder in (self._folders.state, self._folders.servers, self._folders.status, self._folders.tokens):
            remove_leftovers(folder)
        path = self._folders.state / "objects.json"
        try:
            self._memory = load_memory(path)
        except (DocumentError, FileProblemError) as error:
            self._log.error(
                "memory.damaged",
                error=str(error),
                effect="generations begin anew; a file that can't be read now freezes all servers",
            )
        for problem in self._status_files.load():
            self._log.warning("status.unreadable", error=problem, effect="it is written anew")

    # The directory.

    async def _watch(self, stopping: asyncio.Event) -> None:
        """Notices changes at once. Where that doesn't work the slow poll does."""
        try:
            async for _ in watchfiles.awatch(
                self._directory, recursive=False, debounce=50, step=50, stop_event=stopping, watch_filter=None
            ):
                self._changed.set()
        except (OSError, RuntimeError) as error:
            self._log.warning("directory.not_watched", error=str(error), effect=f"read each {self._poll_seconds} s")

    async def _follow(self, stopping: asyncio.Event, group: asyncio.TaskGroup) -> None:
        """Scans whenever something changed, and once in a while."""
        while not stopping.is_set():
            self._changed.clear()
            self._turned = time.monotonic()
            try:
                again_in = await self._scan()
                for server in sorted(self._views.keys() - self._workers.keys()):
                    self._hub.open(server)
                    worker = self._workers[server] = ServerWorker(server, self._tools)
                    group.create_task(worker.run(stopping))
                self._acting = True
                self._metrics.acting.set(1)
            except (OSError, StoreError) as error:
                self._log.error("directory.failed", error=str(error), retry_seconds=_RETRY_SECONDS)
                again_in = _RETRY_SECONDS
            await _wait(self._changed, min(self._poll_seconds, again_in or self._poll_seconds))
        self._aside.close()

    async def _scan(self) -> float | None:
        """Takes in what the directory says now; returns in how many seconds to look again at the latest.
        Raises `OSError`, `StoreError`.
        """
        scan = await asyncio.to_thread(self._scanner.scan, frozenset(self._memory))
        catalogue = self._build(scan.entries, scan.unsettled, self._memory, scan.unreadable)
        if catalogue.memory != self._memory:
            # Before anything is done about it: a restart must not give a generation twice.
            await asyncio.to_thread(save_memory, self._folders.state / "objects.json", catalogue.memory)
        views = await asyncio.to_thread(self._look, catalogue, scan)
        self._memory, self._catalogue = catalogue.memory, catalogue
        self._settled = not scan.unsettled and not scan.unreadable
        before, self._views = self._views, views
        for server in views:
            if views[server] != before.get(server):
                self._wake(server)
        self._say(catalogue, scan)
        self._aside.ask()
        return scan.again_in

    def _look(self, catalogue: Catalogue, scan: Scan) -> dict[str, ServerView]:
        """The views of all servers; their tokens are made. Blocks."""
        wanted = catalogue.servers() | set(self._named)
        for server in sorted(wanted):
            self._ensure_token(server)
        # Servers once known stay: what serves goes on serving, and its record with it.
        servers = wanted | self._views.keys() | set(self._store.servers())
        return {server: view_of(server, catalogue, scan.decisions, self._samples) for server in sorted(servers)}

    def _ensure_token(self, server: str) -> None:
        file = self._folders.tokens / server
        try:
            if ensure_token(file.parent, server):
                self._log.info("token.made", server=server, file=str(file))
        except OSError as error:
            if server not in self._without_token:
                self._log.error(
                    "token.missing",
                    server=server,
                    error=f"{file} can't be made: {error.strerror}",
                    effect="its replicas can't subscribe",
                    remedy="mount the token there, or let --tokens name a folder that can be written",
                )
            self._without_token.add(server)

    def _wake(self, server: str) -> None:
        worker = self._workers.get(server)
        if worker is not None:
            worker.wake()

    # What people are told.

    def _say(self, catalogue: Catalogue, scan: Scan) -> None:
        """Each problem once, in the log and as an event; and when it is gone."""
        self._metrics.invalid_files.set(len(catalogue.problems))
        found: dict[tuple[str, str], Event | None] = {}
        if catalogue.unreadable:
            found["", catalogue.unreadable] = Event("", "Warning", "DirectoryUnreadable", catalogue.unreadable)
        for problem in catalogue.problems:
            text = f"{problem.file}: {problem.message}"
            found[problem.file, text] = Event(problem.name, "Warning", FILE_INVALID, text)
        for problem in catalogue.refused:
            found[problem.file, problem.message] = Event(problem.name, "Warning", CONFLICT, problem.message)
        for bad in scan.bad_decisions:
            text = f"{bad.file}: {bad.message}"
            found[bad.file, text] = Event(bad.file.split(".")[0], "Warning", "DecisionInvalid", text)
        for foreign in catalogue.foreign:
            found[foreign.file, foreign.message] = None
        for (file, message), event in found.items():
            if (file, message) in self._said:
                continue
            if event is None:
                self._log.warning("file.ignored", file=file, reason=message)
            else:
                self._log.warning("file.refused", file=file, reason=event.reason, message=message)
                self._events_due.append((datetime.now(UTC), event))
        for file, message in self._said - found.keys():
            self._log.info("file.settled", file=file or str(self._directory), was=message)
        self._said = set(found)

    async def _tell(self) -> None:
        """Writes what the last scans said, beside them."""
        events, self._events_due = self._events_due, []
        for at, event in events:
            try:
                async with self._writing:
                    await asyncio.to_thread(self._events.append, "", (event,), at)
            except OSError as error:
                self._log.error("events.not_written", error=str(error))
        await self._flush_statuses()

    async def _show(self, server: str, statuses: Mapping[str, ModelVersionStatus]) -> None:
        """Takes the engine's statuses of a server."""
        if self._statuses.get(server) != statuses:
            self._statuses[server] = statuses
            await self._flush_statuses()

    async def _flush_statuses(self) -> None:
        """Writes what changed. Nothing is removed before each file and each server was looked at: until then it may be
        true."""
        async with self._writing:
            complete = self._settled and self._views.keys() <= self._statuses.keys()
            statuses = self._all_statuses()
            try:
                changed = await asyncio.to_thread(self._status_files.update, statuses, complete=complete)
            except OSError as error:
                self._log.error("status.not_written", error=str(error))
                return
            for name in changed:
                self._log.debug("status.written", model_version=name)

    def _all_statuses(self) -> dict[str, ModelVersionStatus]:
        result: dict[str, ModelVersionStatus] = {}
        owners = {each.name: each.server for each in self._memory.values()}
        unseen = self._views.keys() - self._statuses.keys()
        for server, statuses in self._statuses.items():
            for name, status in statuses.items():
                if name not in result or owners.get(name) == server:
                    result[name] = status
        for problems, reason in ((self._catalogue.problems, FILE_INVALID), (self._catalogue.refused, CONFLICT)):
            for problem in problems:
                name = problem.name or _name_of_file(problem)
                # What else is true of it isn't known before its server was looked at.
                if name and (name in result or owners.get(name) not in unseen):
                    message = problem.message if reason == CONFLICT else f"{problem.file}: {problem.message}"
                    result[name] = stalled(result.get(name), reason, message)
        return result


def _name_of_file(problem: Problem) -> str:
    """For a file whose ModelVersion's name can't be read: its own, if that can be one."""
    try:
        return _NAME.validate_python(Path(problem.file).stem)
    except ValidationError:
        return ""


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
