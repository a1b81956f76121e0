"""Main's side of the launcher: starts it, asks it for workers, hears of their end.

`Launcher.start` is to be called before main reads any secret, from the thread that lives as long as main: the kernel
ends the launcher with the thread that started it. A launcher that dies is started anew at the next need; its workers
are gone with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass_server.hosting.confinement import lacking
from windlass_server.hosting.launcher_start import StartedLauncher, start_launcher
from windlass_server.hosting.output import OutputReader
from windlass_server.hosting.processes import receive_message, send_message

_log = logging.getLogger(__name__)

_END_GRACE_SECONDS = 5
_OF_LATE_SECONDS = 10.0
"""Clients that ask now and then are to be spared, too."""


class LauncherError(Exception):
    """No worker could be started; not the version's fault."""


@dataclass(frozen=True)
class WorkerExit:
    """How a worker ended."""

    code: int | None
    """What it exited with; None: a signal ended it, or it isn't known."""
    signal: signal.Signals | None = None

    @property
    def from_outside(self) -> bool:
        """Someone else ended it: it didn't crash. (The kernel does so too when memory is short.)"""
        return self.code is None and self.signal in {None, signal.SIGKILL, signal.SIGTERM}

    def __str__(self) -> str:
        if self.signal is not None:
            return f"was ended by {self.signal.name}"
        return "ended with the launcher" if self.code is None else f"exited with status {self.code}"

    @classmethod
    def of_status(cls, status: int) -> WorkerExit:
        """From `waitpid`'s status."""
        code = os.waitstatus_to_exitcode(status)
        return cls(code) if code >= 0 else cls(None, signal.Signals(-code))


@dataclass
class WorkerProcess:
    """A worker that was forked."""

    id: int
    pid: int
    socket: socket.socket
    """Main's end of its channel; whoever uses it closes it."""
    exited: asyncio.Future[WorkerExit]
    """Never fails, and is never cancelled."""
    output: OutputReader
    """What it wrote to stdout and stderr."""
    _launcher: Launcher

    def let_go(self) -> None:
        """It may use as much of the processors as it needs from now on."""
        if not self.exited.done():
            self._launcher.let_go(self.id)

    def set_free(self, last_asked: Callable[[], float]) -> None:
        """It answers requests from now on, and may use as much of the processors as it needs. `last_asked`: when the
        newest came to it, by `time.monotonic`."""
        self._launcher.set_free(self.id, last_asked)

    def kill(self) -> None:
        """Ends it now, by SIGKILL; `exited` says when. Harmless when it has ended."""
        if not self.exited.done():
            self._launcher.kill(self.id)


@dataclass
class _Birth:
    started: asyncio.Future[int]
    """Its pid."""
    exited: asyncio.Future[WorkerExit]


class Launcher:
    """The client. Belongs to the event loop that `start` ran in."""

    def __init__(self, scratch: Path | None = None, started: StartedLauncher | None = None) -> None:
        """`scratch`: where each worker gets a folder of its own; made if missing. None: the temporary folder.
        `started`: the process, if it is there already."""
        self._scratch = scratch
        self._started = started
        self._folder: Path | None = None
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reaping: asyncio.Task[None] | None = None
        self._births: dict[int, _Birth] = {}
        self._next_id = 0
        self.template_seconds: dict[str, float] = {}
        """How long each runtime's template took to import it."""
        self.confinement: dict[str, str] = {}
        """What workers are denied by the kernel, as the newest said: measure to `in force`, or why it isn't."""
        self._ready: dict[str, asyncio.Future[None]] = {}
        self._serving: dict[int, Callable[[], float]] = {}
        """When each worker that answers requests was asked last."""
        self.preparing = asyncio.Lock()
        """Held while a worker is loaded anew after a crash: one load at a time, so that loads don't add up."""

    @property
    def serves(self) -> bool:
        """Whether a worker answers requests, so that others have to leave it enough of the processors."""
        return bool(self._serving)

    @property
    def is_asked(self) -> bool:
        """Whether such a worker was asked of late."""
        since = time.monotonic() - _OF_LATE_SECONDS
        return any(last_asked() > since for last_asked in self._serving.values())

    @property
    def pid(self) -> int | None:
        """The launcher's process, while it lives."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Starts the launcher's process. Raises `LauncherError`."""
        if self._process is not None:
            return
        if self._folder is None:
            try:
                if self._scratch is not None:
                    self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Of this launcher alone, so that it can be removed as a whole.
                self._folder = Path(tempfile.mkdtemp(prefix="windlass-", dir=self._scratch))
            except OSError as error:
                raise LauncherError(
                    f"there is no temporary directory that can be written, for the scratch of workers "
                    f"({error.strerror}): in a container with a read-only root mount one, as by --tmpfs /tmp"
                ) from error
        started, self._started = self._started, None
        try:
            started = started or start_launcher()  # vfork and exec block for a millisecond
        except OSError as error:
            raise LauncherError(f"the launcher can't be started: {error}") from error
        self._process, self._control = started.process, started.control
        self._control.setblocking(False)
        OutputReader(started.output, {"part": "launcher"})  # lives as long as the event loop reads for it
        asyncio.get_running_loop().add_reader(self._control, self._on_message)

    async def close(self) -> None:
        """Ends the launcher, and with it every template and worker; returns when it is gone."""
        self._lost()
        if self._reaping is not None:
            await self._reaping
        folder, self._folder = self._folder, None
        if folder is not None:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def warm(self, runtime: str) -> None:
        """Has the runtime's template ready, so that the first worker needn't wait for it. Raises `LauncherError`."""
        await self.start()
        ready = self._ready.setdefault(runtime, asyncio.get_running_loop().create_future())
        self._send({"op": "warm", "runtime": runtime})
        await asyncio.shield(ready)

    async def spawn(
        self,
        runtime: str,
        argument: Mapping[str, Any],
        *,
        within: float = 120,
        context: Mapping[str, Any] | None = None,
        cpus: float | None = None,
    ) -> WorkerProcess:
        """Forks a worker. `argument` goes to the worker as it is, with its `scratch` folder added; `context` goes to
        the log with each line that it writes; `cpus`: how many processors' worth of time it may use until `set_free`,
        and its template until that is there. Takes as long as the runtime's template needs when it is the first.
        Raises `LauncherError`: no worker of it is left then, nor when this is cancelled."""
        await self.start()
        loop = asyncio.get_running_loop()
        self._next_id += 1
        identity = self._next_id
        birth = _Birth(loop.create_future(), loop.create_future())
        self._births[identity] = birth
        scratch = Path(tempfile.mkdtemp(prefix="worker-", dir=self._folder))
        birth.exited.add_done_callback(lambda _: loop.run_in_executor(None, shutil.rmtree, scratch, True))
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        output = OutputReader(reading, context or {})
        sent = False
        try:
            self._send(
                {
                    "op": "spawn",
                    "id": identity,
                    "runtime": runtime,
                    "argument": {**argument, "scratch": str(scratch)},
                    "cpus": cpus,
                },
                (theirs.fileno(), writing),
            )
            sent = True
            theirs.close()
            os.close(writing)
            writing = -1
            async with asyncio.timeout(within):
                pid = await asyncio.shield(birth.started)
        except BaseException as error:
            ours.close()
            theirs.close()
            if writing >= 0:
                os.close(writing)
            if isinstance(error, TimeoutError):
                # A template that takes no orders is of no use to the next version either.
                self._send_if_up({"op": "reset", "runtime": runtime})
            self.kill(identity)
            birth.started.cancel()
            if not sent and self._births.pop(identity, birth) is birth and not birth.exited.done():
                birth.exited.set_result(WorkerExit(None))
            # It may have been born already. One that isn't, since its template is still being made, ends at its birth.
            await asyncio.wait([birth.exited], timeout=_END_GRACE_SECONDS)
            if isinstance(error, TimeoutError):
                raise LauncherError(f"the {runtime} runtime had no worker ready in {within:g} s") from None
            raise
        return WorkerProcess(identity, pid, ours, birth.exited, output, self)

    def set_free(self, identity: int, last_asked: Callable[[], float]) -> None:
        """A worker answers requests from now on; see `WorkerProcess`."""
        if identity in self._births:
            self._serving[identity] = last_asked
            self.let_go(identity)

    def let_go(self, identity: int) -> None:
        """A worker may use as much of the processors as it needs from now on."""
        self._send_if_up({"op": "free", "id": identity})

    def kill(self, identity: int) -> None:
        """Ends a worker, also one that is about to be born."""
        self._send_if_up({"op": "kill", "id": identity})

    def confined(self, report: dict[str, str]) -> None:
        """Takes down what a worker says of its confinement; logged when it is new."""
        if report != self.confinement:
            self.confinement = report
            level = logging.WARNING if lacking(report) else logging.INFO
            _log.log(level, "workers are confined: %s", ", ".join(f"{name} {why}" for name, why in report.items()))

    def _send_if_up(self, message: dict[str, Any]) -> None:
        if self._control is not None:
            self._send(message)

    def _send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        if self._control is None:
            raise LauncherError("the launcher isn't running")
        try:
            send_message(self._control, message, descriptors)
        except OSError as error:
            # Its socket holds hundreds of messages: a launcher that is so far behind is as good as dead.
            self._lost()
            raise LauncherError(f"the launcher can't be reached: {error}") from error

    def _on_message(self) -> None:
        assert self._control is not None
        try:
            received = receive_message(self._control)
        except BlockingIOError:
            return
        except OSError as error:
            _log.error("the launcher's messages can't be read: %s", error)
            received = None
        if received is None:
            _log.error("the launcher ended, and every worker with it; it is started anew at the next need")
            self._lost()
            return
        message, _ = received
        match message["op"]:
            case "ready":
                self.template_seconds[message["runtime"]] = message["seconds"]
                ready = self._ready.setdefault(message["runtime"], asyncio.get_running_loop().create_future())
                if not ready.done():
                    ready.set_result(None)
            case "gone":
                self._template_gone(message["runtime"])
            case "started":
                started = self._births[message["id"]].started
                if not started.done():
                    started.set_result(message["pid"])
            case "failed":
                birth = self._births.pop(message["id"])
                if not birth.started.done():
                    birth.started.set_exception(LauncherError(message["message"]))
                birth.exited.set_result(WorkerExit(None))
            case "exited":
                birth = self._births.pop(message["id"])
                self._serving.pop(message["id"], None)
                birth.exited.set_result(WorkerExit.of_status(message["status"]))

    def _template_gone(self, runtime: str) -> None:
        ready = self._ready.pop(runtime, None)
        if ready is not None and not ready.done():
            ready.set_exception(LauncherError(f"the template of the {runtime} runtime ended"))
            ready.exception()  # whoever waited may be gone

    def _lost(self) -> None:
        """Nothing of the launcher is left: not the launcher, not its templates, not its workers."""
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        if self._process is not None:
            process, self._process = self._process, None
            self._reaping = asyncio.create_task(_reap(process))
        for runtime in list(self._ready):
            self._template_gone(runtime)
        births, self._births = self._births, {}
        self._serving.clear()
        for birth in births.values():
            if not birth.started.done():
                birth.started.set_exception(LauncherError("the launcher ended"))
                birth.started.exception()  # whoever waited may be gone
            birth.exited.set_result(WorkerExit(None))


async def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        await asyncio.to_thread(process.wait, _END_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        await asyncio.to_thread(process.wait)
