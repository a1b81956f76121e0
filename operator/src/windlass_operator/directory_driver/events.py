"""`events.jsonl`: what happened, for people; the oldest go first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from windlass_operator.engine.interface import Event

from .files import append_line

MAX_EVENTS_BYTES = 2 * 1024 * 1024
"""Of one file; there are two, `events.jsonl` and the one before it, `events.1.jsonl`."""


class EventLog:
    """Appends events, one JSON object per line: at, server, modelVersion, type, reason, message."""

    def __init__(self, path: Path, max_bytes: int = MAX_EVENTS_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes

    def append(self, server: str, events: Iterable[Event], at: datetime) -> None:
        """Adds events. Raises `OSError`."""
        for event in events:
            line = {
                "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "server": server,
                "modelVersion": event.model_version,
                "type": event.type,
                "reason": event.reason,
                "message": event.message,
            }
            append_line(self.path, json.dumps(line, ensure_ascii=False).encode())
        self._rotate()

    def _rotate(self) -> None:
        try:
            full = self.path.stat().st_size >= self._max_bytes
        except FileNotFoundError:
            return
        if full:
            self.path.replace(self.path.with_name(f"{self.path.stem}.1{self.path.suffix}"))
