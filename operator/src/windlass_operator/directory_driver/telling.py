"""What people are told on a directory: status files, `events.jsonl`, and what replicas report."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

import structlog

from windlass_contract.model_version import ModelVersionStatus
from windlass_operator.engine.interface import Event, SeenReport

from .events import EventLog
from .replicas import ReplicaFiles


class FolderPeople:
    """Writes files for people. `writing` is held meanwhile: a slow disk keeps one thread of the pool busy, not all."""

    def __init__(
        self,
        replicas: ReplicaFiles,
        events: EventLog,
        show: Callable[[str, Mapping[str, ModelVersionStatus]], Awaitable[None]],
        writing: asyncio.Lock,
    ) -> None:
        self._replicas = replicas
        self._events = events
        self._show = show
        self._writing = writing
        self._log = structlog.get_logger("windlass.directory")

    async def show_statuses(self, key: str, statuses: Mapping[str, ModelVersionStatus]) -> None:
        """Takes them to the status files, which are of all servers together."""
        await self._show(key, statuses)

    async def show_reports(self, key: str, reports: Sequence[SeenReport]) -> None:
        """`replicas/<server>.json`."""
        async with self._writing:
            try:
                await asyncio.to_thread(self._replicas.show, key, reports)
            except OSError as error:
                self._log.error("replicas.not_written", server=key, error=str(error))

    async def tell(self, key: str, events: Sequence[Event], at: datetime) -> None:
        """`events.jsonl`."""
        async with self._writing:
            try:
                await asyncio.to_thread(self._events.append, key, events, at)
            except OSError as error:
                self._log.error("events.not_written", server=key, error=str(error))
