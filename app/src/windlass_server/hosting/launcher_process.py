"""The launcher: `python -I -m windlass_server.hosting.launcher_process DESCRIPTOR PARENT`.

A tiny process that main starts before it reads any secret. It forks a template per runtime on first need, has the
template fork the workers, and is the parent of all of them: workers are handed to it when they are born (it is their
subreaper), so a template that dies takes no worker along, and every process here is waited for and killed by its own
parent, never by a number that may belong to someone else. Everything dies with main.

Messages from main: `spawn` (id, runtime, argument, cpus: how many processors' worth of time it may use, null for any;
descriptors: channel, output), `free` (id: it may use any from now on), `kill` (id), `warm` (runtime), `reset` (runtime:
its template is killed). To main: `ready` (runtime, seconds), `gone` (runtime: its
template ended), `started` (id, pid), `failed` (id,
message), `exited` (id, status: as waitpid's).
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import Any

from windlass_server.hosting.pacing import Pacer
from windlass_server.hosting.processes import (
    adopt_orphans,
    die_with_parent,
    forbid_core_dumps,
    receive_message,
    send_message,
    set_name,
)

RUNTIMES = ("tensorflow", "litert", "helpers")


@dataclass
class _Template:
    runtime: str
    pid: int
    watch: int
    """pidfd: readable when it has ended."""
    connection: socket.socket
    ready: bool = False
    """It has imported its runtime."""
    pending: dict[int, float | None] = field(default_factory=dict)
    """Workers asked for and not reported yet, and how many processors' worth of time each may use."""


@dataclass
class _Worker:
    id: int
    pid: int
    watch: int


class LauncherProcess:
    """One thread, one selector; nothing here waits for a child."""

    def __init__(self, main: socket.socket) -> None:
        self._main = main
        self._selector = selectors.DefaultSelector()
        self._selector.register(main, selectors.EVENT_READ, self._on_main)
        self._templates: dict[str, _Template] = {}
        self._workers: dict[int, _Worker] = {}
        self._doomed: set[int] = set()
        """Workers to kill as soon as they are born."""
        self._pacer = Pacer()

    def run(self) -> None:
        """Until main is gone."""
        while True:
            for key, _ in self._selector.select(self._pacer.look()):
                if key.fileobj in self._selector.get_map():  # an earlier event may have removed it
                    key.data()

    def _on_main(self) -> None:
        received = receive_message(self._main)
        if received is None:
            os._exit(0)  # main is gone: templates and workers go with this process
        message, descriptors = received
        try:
            match message["op"]:
                case "spawn":
                    self._spawn(message, descriptors)
                case "free":
                    self._free(message["id"])
                case "kill":
                    self._kill(message["id"])
                case "warm":
                    self._template(message["runtime"])
                case "reset":
                    template = self._templates.get(message["runtime"])
                    if template is not None:
                        signal.pidfd_send_signal(template.watch, signal.SIGKILL)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _spawn(self, message: dict[str, Any], descriptors: list[int]) -> None:
        template = self._template(message["runtime"])
        try:
            send_message(template.connection, message, descriptors)
        except OSError as error:
            self._tell({"op": "failed", "id": message["id"], "message": f"its template can't be reached: {error}"})
            return
        template.pending[message["id"]] = message["cpus"]
        if message["cpus"] is not None and not template.ready:
            self._pacer.hold(template.pid, template.watch, message["cpus"])

    def _free(self, identity: int) -> None:
        worker = self._workers.get(identity)
        if worker is not None:
            self._pacer.let_go(worker.pid)

    def _kill(self, identity: int) -> None:
        worker = self._workers.get(identity)
        if worker is not None:
            signal.pidfd_send_signal(worker.watch, signal.SIGKILL)
        elif any(identity in template.pending for template in self._templates.values()):
            self._doomed.add(identity)

    def _template(self, runtime: str) -> _Template:
        if runtime not in RUNTIMES:
            raise ValueError(f"no such runtime: {runtime}")
        if runtime in self._templates:
            return self._templates[runtime]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            # Only this process may keep what main sends; the template has its own connection and nothing else.
            from windlass_server.hosting import template

            template.run(theirs.detach(), runtime, launcher)
        theirs.close()
        watch = os.pidfd_open(pid)
        created = _Template(runtime, pid, watch, ours)
        self._templates[runtime] = created
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._on_template(created))
        self._selector.register(watch, selectors.EVENT_READ, lambda: self._on_template_end(created))
        return created

    def _on_template(self, template: _Template) -> None:
        received = receive_message(template.connection)
        if received is None:
            self._selector.unregister(template.connection)  # its end is reported by its pidfd
            return
        message, _ = received
        if message["op"] == "forked":
            self._born(template, message["id"], message["pid"])
        else:
            template.ready = True
            self._pacer.let_go(template.pid)
            self._tell(message)

    def _born(self, template: _Template, identity: int, pid: int) -> None:
        cpus = template.pending.pop(identity)
        # A child of ours already, and nobody else waits for it: the number can't be anyone else's.
        worker = _Worker(identity, pid, os.pidfd_open(pid))
        self._workers[identity] = worker
        if cpus is not None:
            self._pacer.hold(pid, worker.watch, cpus)
        self._selector.register(worker.watch, selectors.EVENT_READ, lambda: self._on_worker_end(worker))
        self._tell({"op": "started", "id": identity, "pid": pid})
        if identity in self._doomed:
            self._doomed.discard(identity)
            signal.pidfd_send_signal(worker.watch, signal.SIGKILL)

    def _on_worker_end(self, worker: _Worker) -> None:
        self._pacer.let_go(worker.pid)
        _, status = os.waitpid(worker.pid, 0)
        self._selector.unregister(worker.watch)
        os.close(worker.watch)
        del self._workers[worker.id]
        self._tell({"op": "exited", "id": worker.id, "status": status})

    def _on_template_end(self, template: _Template) -> None:
        # What it said before it ended still counts.
        template.connection.setblocking(False)
        try:
            while (received := receive_message(template.connection)) is not None:
                if received[0]["op"] == "forked":
                    self._born(template, received[0]["id"], received[0]["pid"])
        except BlockingIOError:
            pass
        self._pacer.let_go(template.pid)
        _, status = os.waitpid(template.pid, 0)
        if template.connection in self._selector.get_map():
            self._selector.unregister(template.connection)
        self._selector.unregister(template.watch)
        os.close(template.watch)
        template.connection.close()
        del self._templates[template.runtime]  # the next need starts another
        for identity in template.pending:
            self._doomed.discard(identity)
            self._tell(
                {
                    "op": "failed",
                    "id": identity,
                    "message": f"the template of the {template.runtime} runtime ended "
                    f"(exit status {os.waitstatus_to_exitcode(status)})",
                }
            )
        self._tell({"op": "gone", "runtime": template.runtime})
        self._reap_strangers()

    def _reap_strangers(self) -> None:
        """A template that died between forking and saying so leaves a worker that nobody knows. Its channel is closed
        by main, so it ends by itself; here it is only waited for, once templates are about to change anyway."""
        known = {worker.pid for worker in self._workers.values()} | {each.pid for each in self._templates.values()}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid in known:
                return
            os.waitpid(ended.si_pid, 0)

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            send_message(self._main, message)
        except OSError:
            os._exit(0)


def main() -> None:
    """Runs the launcher on the descriptor that main left open."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    adopt_orphans()
    forbid_core_dumps()
    set_name("windlass-launch")
    # Ctrl-C is main's business; SIGTERM keeps its meaning.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    gc.freeze()
    LauncherProcess(socket.socket(fileno=descriptor)).run()


if __name__ == "__main__":
    main()
