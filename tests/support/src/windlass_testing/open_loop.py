"""Open-loop load from a process of its own, so that what the tests do meanwhile doesn't slow it.

Requests are due by a timetable that no answer changes; each is sent on a connection that is free, or waits for one, and
its latency counts from when it was due: a stall shows in every request that it held up (coordinated omission). With a
rate of 0 the loop is closed: each connection sends when its answer is there, which measures the capacity.

The process takes lines: `pause`, and `go` with a timetable that begins anew. The end of its input ends it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_RECORD = struct.Struct("<dddiii")
_FLUSH_SECONDS = 0.05


@dataclass(frozen=True)
class Shot:
    """One request and what became of it. Times in seconds of the monotonic clock."""

    due: float
    sent: float
    done: float
    status: int
    """HTTP status; 0: no answer."""
    version: int
    """Who answered; 0: it isn't said."""
    epoch: int

    @property
    def lost(self) -> bool:
        """Any answer but 2xx, or none."""
        return not 200 <= self.status < 300

    @property
    def latency(self) -> float:
        """Seconds from when it was due."""
        return self.done - self.due


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies. Raises `ValueError` when there are none."""
    if not values:
        raise ValueError("there are no values to take a quantile of")
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


class OpenLoop:
    """`with OpenLoop(folder, url, path, body, headers, rate=50) as load: …`; `load.shots()` at any time."""

    def __init__(
        self,
        folder: Path,
        url: str,
        path: str,
        body: bytes,
        headers: dict[str, str],
        *,
        rate: float,
        connections: int,
        spread: bool = False,
    ) -> None:
        """`rate`: requests per second; 0: as fast as `connections` get answers. `spread`: the connection that has been
        free for longest takes the next request, so that all are used (and the processes behind them); else the one that
        has just become free."""
        self._records = folder / f"shots-{os.getpid()}-{time.monotonic_ns()}"
        self._order = {
            "url": url,
            "path": path,
            "body": base64.b64encode(body).decode(),
            "headers": headers,
            "rate": rate,
            "connections": connections,
            "spread": spread,
            "records": str(self._records),
        }
        self._shots: list[Shot] = []
        self._read = 0

    def __enter__(self) -> Self:
        self._records.touch()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "windlass_testing.open_loop", json.dumps(self._order)], stdin=subprocess.PIPE
        )
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)  # the end of its input ends it, once what was sent is answered
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        assert self._process.returncode == 0, "the load generator failed; its output says why"

    def pause(self) -> None:
        """Sends no more; what was sent is answered."""
        self._say("pause")

    def go(self) -> None:
        """Sends again."""
        self._say("go")

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        self._process.stdin.flush()

    def shots(self) -> list[Shot]:
        """What is done so far, in the order of the answers."""
        with self._records.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = len(data) - len(data) % _RECORD.size
        self._read += whole
        self._shots += [Shot(*fields) for fields in _RECORD.iter_unpack(data[:whole])]
        return self._shots

    def due_between(self, begin: float, end: float) -> list[Shot]:
        """What was due in this time."""
        return [shot for shot in self.shots() if begin <= shot.due < end]


class _Connection(asyncio.Protocol):
    """One request at a time over HTTP/1.1."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._due = self._sent = 0.0
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, due: float) -> None:
        """Begins a request."""
        assert self._transport is not None
        self._busy, self._due, self._sent, self._received = True, due, time.monotonic(), b""
        self._transport.write(self._generator.message)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines)
        if not _complete(fields, rest):
            return
        version, epoch = int(fields.get("x-model-version", 0)), int(fields.get("x-plan-epoch", -1))
        self._done(int(first.split(" ")[1]), version, epoch)
        if fields.get("connection") == "close":
            assert self._transport is not None
            self._transport.close()
        else:
            self._generator.free(self)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._busy:
            self._done(0, 0, -1)
        self._generator.gone(self)

    def _done(self, status: int, version: int, epoch: int) -> None:
        self._busy = False
        self._generator.note((self._due, self._sent, time.monotonic(), status, version, epoch))


def _complete(fields: dict[str, str], body: bytes) -> bool:
    """Whether an answer's body is all there. Trailers aren't expected behind chunks."""
    if fields.get("transfer-encoding") == "chunked":
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(fields["content-length"])


class _Generator:
    def __init__(self, order: dict[str, object]) -> None:
        target = urlsplit(str(order["url"]))
        self._host, self._port = str(target.hostname), int(target.port or 80)
        body = base64.b64decode(str(order["body"]))
        headers = {"Host": target.netloc, "Content-Length": len(body), **dict(order["headers"])}  # type: ignore[call-overload]
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.message = f"POST {order['path']} HTTP/1.1\r\n{lines}\r\n".encode() + body
        self._rate = float(str(order["rate"]))
        self._connections = int(str(order["connections"]))
        self._file = Path(str(order["records"])).open("ab")  # noqa: SIM115 - open as long as the process runs
        self._spread = bool(order["spread"])
        self._free: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._due: deque[float] = deque()
        self._ending = self._paused = False
        self._start, self._number = 0.0, 0

    async def run(self) -> None:
        """Until the input ends and everything is answered."""
        asyncio.get_running_loop().add_reader(sys.stdin, self._hear)
        for _ in range(self._connections):
            await self._connect()
        self._start = time.monotonic()
        while not self._ending or len(self._free) < len(self._open):
            wait = _FLUSH_SECONDS
            if self._sending:
                now = time.monotonic()
                self._take_due(now)
                self._send(now)
                if self._rate:
                    wait = min(max(self._next - time.monotonic(), 0), _FLUSH_SECONDS)
            self._file.flush()
            await asyncio.sleep(wait)
        self._file.close()

    @property
    def _next(self) -> float:
        return self._start + self._number / self._rate

    @property
    def _sending(self) -> bool:
        return not self._ending and not self._paused

    def free(self, connection: _Connection) -> None:
        """It takes the next request."""
        self._free.append(connection)
        if self._due or (self._sending and not self._rate):
            self._send(time.monotonic())

    def gone(self, connection: _Connection) -> None:
        """Another takes its place."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if not self._ending:
            self._again = asyncio.get_running_loop().create_task(self._connect())

    def note(self, record: tuple[float, float, float, int, int, int]) -> None:
        """Keeps it."""
        self._file.write(_RECORD.pack(*record))

    async def _connect(self) -> None:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self), self._host, self._port
        )
        self._open.add(connection)
        self.free(connection)

    def _take_due(self, now: float) -> None:
        while self._rate and self._next <= now:
            self._due.append(self._next)
            self._number += 1

    def _send(self, now: float) -> None:
        while self._free and (self._due or not self._rate):
            connection = self._free.popleft() if self._spread else self._free.pop()
            connection.send(self._due.popleft() if self._rate else now)

    def _hear(self) -> None:
        words = os.read(0, 4096).decode().split()
        if not words:
            if self._sending and self._start:
                now = time.monotonic()
                self._take_due(now)  # it may have slept for longer than it wanted
                self._send(now)
            self._ending = True
            asyncio.get_running_loop().remove_reader(sys.stdin)
        for word in words:
            self._paused = word == "pause"
            self._start, self._number = time.monotonic(), 0
        if self._sending and not self._rate:
            self._send(time.monotonic())


def main() -> None:
    """Sends until its input ends."""
    asyncio.run(_Generator(json.loads(sys.argv[1])).run())


if __name__ == "__main__":
    main()
