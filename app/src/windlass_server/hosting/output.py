"""What a process writes to stdout and stderr: logged by main, bounded, and its last lines kept for failure messages."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger("windlass_server.worker")

_MAX_LINE = 1000
_KEPT_LINES = 30
_BUDGET_LINES = 200
_BUDGET_SECONDS = 10.0
"""More than this is left out of the log, and counted there."""
_NOISE = re.compile(r"\s*@ +0x|I\d{4} |\*\*\* Check failure|WARNING: All log messages before absl")
"""Frames of a native stack, and what TensorFlow says of itself."""
_ABOUT_ITSELF = re.compile(
    r"(\S+ \S+: )?I(\d{4} | (tensorflow|external|xla)/)|WARNING: All log messages before|\[symbolize_elf"
)
"""What TensorFlow's libraries call information, and tell at each start: nothing that the replica's owner looks for."""


class OutputReader:
    """Reads the descriptor until its end, whatever comes: a process must never wait for its log."""

    def __init__(self, descriptor: int, context: Mapping[str, Any]) -> None:
        """Takes the descriptor over. `context`: fields that each logged line carries."""
        self._descriptor = descriptor
        self._context = dict(context)
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._window_ends = 0.0
        self._window_lines = 0
        self._left_out = 0
        self.ended = asyncio.Event()
        """Nothing more will come."""
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._on_readable)

    def tail(self, max_characters: int = 700) -> str:
        """The last lines that tell something, shortened at their beginning."""
        text = "\n".join(line for line in self._lines if not _NOISE.match(line))
        return text if len(text) <= max_characters else "…" + text[-max_characters:]

    def close(self) -> None:
        """Stops reading."""
        if not self.ended.is_set():
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self.ended.set()

    def _on_readable(self) -> None:
        try:
            data = os.read(self._descriptor, 64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if self._rest:
                self._take(self._rest)
            self.close()
            return
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        self._rest = rest[:_MAX_LINE]

    def _take(self, data: bytes) -> None:
        line = data[:_MAX_LINE].decode("utf-8", "replace").rstrip()
        if not line:
            return
        self._lines.append(line)
        now = self._loop.time()
        if now >= self._window_ends:
            if self._left_out:
                _log.warning("%d lines were left out", self._left_out, extra=self._context)
            self._window_ends, self._window_lines, self._left_out = now + _BUDGET_SECONDS, 0, 0
        self._window_lines += 1
        if self._window_lines > _BUDGET_LINES:
            self._left_out += 1
        else:
            _log.log(logging.DEBUG if _ABOUT_ITSELF.match(line) else logging.INFO, "%s", line, extra=self._context)
