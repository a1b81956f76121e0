"""`events.jsonl`: what happened, for people; the oldest go first."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from windlass_operator.engine.interface import Event

from .files import append_line, exclusive

MAX_EVENTS_BYTES = 2 * 1024 * 1024
"""Of one file; there are two, `events.jsonl` and the one before it, `events.1.jsonl`."""


class EventLog:
    """Appends events, one JSON object per line: at, server, modelVersion, type, reason, message."""

    def __init__(self, path: Path, max_bytes: int = MAX_EVENTS_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes

    def append(self, server: str, events: Iterable[Event], at: datetime) -> None:
        """Adds events. Raises `OSError`. One that was just replaced as the acting operator may still be at it: each has
        the file to itself for as long as this takes.
        """
        lines = [
            {
                "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "server": server,
                "modelVersion": event.model_version,
                "type": event.type,
                "reason": event.reason,
                "message": event.message,
            }
            for event in events
        ]
        with exclusive(self.path) as descriptor:
            for line in lines:
                append_line(descriptor, json.dumps(line, ensure_ascii=False).encode())
            if os.fstat(descriptor).st_size >= self._max_bytes:
                self.path.replace(self.path.with_name(f"{self.path.stem}.1{self.path.suffix}"))
