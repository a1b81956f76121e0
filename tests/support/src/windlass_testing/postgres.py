"""A real PostgreSQL, started by the tests from the distribution's package, and ways to hurt it.

The one part that a machine may lack: where it is missing a test is skipped with a line that names the package, and
fails when the environment says `CI=true`.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from windlass_testing.one_machine import free_port, wait_until

OLDEST = 15
REMEDY = f"apt-get install postgresql (Debian, Ubuntu), {OLDEST} or later"
PASSWORD = "not-a-secret: the server is gone with the test"
_numbers = itertools.count(1)


def missing(what: str, remedy: str) -> None:
    """A test lacks a part of the machine: it fails in CI (`CI=true`) and is skipped, with the remedy, elsewhere."""
    message = f"{what}; remedy: {remedy}"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def binaries(root: Path = Path("/usr/lib/postgresql")) -> Path | None:
    """Folder with `initdb` and `postgres`, the newest that is at least `OLDEST`; None: there is none. Debian keeps it
    out of PATH."""
    found = [folder / "bin" for folder in root.glob("*") if (folder / "bin" / "initdb").exists()]
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    versions = {folder: _major(folder) for folder in found}
    return max((folder for folder in found if versions[folder] >= OLDEST), key=versions.__getitem__, default=None)


def _major(folder: Path) -> int:
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\) (\d+)", said)
    return int(match[1]) if match else 0


@dataclass(frozen=True)
class Database:
    """One database of a server, with an owner who logs in with a password by TCP."""

    server: Postgres
    name: str

    def url(self, port: int | None = None) -> str:
        """As `--predictions-file` takes it; `port`: of something between us and the server."""
        password = PASSWORD.replace(" ", "%20").replace(":", "%3A")
        return f"postgresql://windlass:{password}@127.0.0.1:{port or self.server.port}/{self.name}"

    def url_file(self, folder: Path, port: int | None = None) -> Path:
        """A file with the URL, for its owner only."""
        path = folder / f"{self.name}-url"
        path.touch(0o600)
        path.write_text(self.url(port) + "\n")
        return path

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Runs a statement as the administrator, in a connection of its own, and gives the rows."""
        with self.server.connect(self.name) as connection:
            cursor = connection.execute(sql.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def count(self) -> int:
        """Rows in the prediction log; 0 before its table is there."""
        if self.query("SELECT to_regclass('predictions')") == [(None,)]:
            return 0
        return int(self.query("SELECT count(*) FROM predictions")[0][0])


class Postgres:
    """A server with a data folder, port and Unix socket of its own. It waits for the disk as in production (fsync)."""

    def __init__(self, folder: Path, programs: Path) -> None:
        """Makes the data folder in `folder`, which other users have to be able to reach."""
        self.port = free_port()
        self.folder = folder
        self._programs = programs
        self._popen: subprocess.Popen[bytes] | None = None
        # initdb and postgres refuse to run as root.
        self._user = _unprivileged() if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o444)
        self._run(
            *("initdb", "--pgdata", str(folder / "data"), "--username", "postgres", "--encoding", "UTF8", "--no-sync"),
            *("--locale", "C", "--auth-local", "trust", "--auth-host", "scram-sha-256", "--pwfile", str(password)),
        )

    @property
    def running(self) -> bool:
        """Whether it was started and hasn't ended."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Starts it, on the same data and port each time, and waits until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "on",
            "shared_buffers": "16MB",
            "max_connections": "40",
        }
        with (self.folder / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                [
                    str(self._programs / "postgres"),
                    *("-D", str(self.folder / "data")),
                    *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
                ],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as_user(),
            )
        wait_until("PostgreSQL answers", self._answers, last_seen=self.tail)

    def stop(self, *, at_once: bool = False) -> None:
        """Ends it: connections are cut. `at_once`: as in a crash, with recovery at the next start."""
        if self._popen is not None and self._popen.poll() is None:
            self._popen.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            self._popen.wait(60)

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """A connection as the administrator, by the Unix socket."""
        return psycopg.connect(
            host=str(self.folder), port=self.port, user="postgres", dbname=database, autocommit=True, connect_timeout=10
        )

    def database(self) -> Database:
        """A new empty one."""
        name = f"windlass_{next(_numbers)}"
        with self.connect() as connection:
            if connection.execute("SELECT FROM pg_roles WHERE rolname = 'windlass'").fetchone() is None:
                connection.execute(f"CREATE ROLE windlass LOGIN PASSWORD '{PASSWORD}'".encode())
            connection.execute(f"CREATE DATABASE {name} OWNER windlass".encode())
        return Database(self, name)

    def cut(self, application: str = "windlass-server") -> int:
        """Cuts all connections of a program; gives how many."""
        with self.connect() as connection:
            terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
            return len(connection.execute(terminate, (application,)).fetchall())

    def tail(self) -> str:
        """The end of its log."""
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def _answers(self) -> bool:
        if not self.running:
            raise RuntimeError(f"PostgreSQL has ended: {self.tail()}")
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], cwd=self.folder, capture_output=True, text=True, **self._as_user()
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stdout}\n{done.stderr}")

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


def _unprivileged() -> pwd.struct_passwd:
    """The user that the package makes, else nobody."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A running server; fails or skips the test where PostgreSQL isn't installed."""
    programs = binaries()
    if programs is None:
        missing(f"PostgreSQL {OLDEST} or later isn't installed", REMEDY)
    assert programs is not None
    # Not in pytest's folder: that one is for its owner only, and PostgreSQL may run as somebody else.
    with tempfile.TemporaryDirectory(prefix="windlass-postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), programs)
        server.start()
        try:
            yield server
        finally:
            server.stop()


class CuttingProxy:
    """TCP before a PostgreSQL: of the connections that have inserted, it cuts the first `cuts` right after a COMMIT.

    The server has got the COMMIT and answered it; the client never hears of it.
    """

    def __init__(self, target: int, cuts: int) -> None:
        self._target = target
        self._left = cuts
        self._mutex = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cut = 0
        """Commits whose answer was kept from the client."""
        threading.Thread(target=self._accept, daemon=True, name="proxy").start()

    def close(self) -> None:
        """Takes no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True, name="proxy-connection").start()

    def _serve(self, client: socket.socket) -> None:
        committed = threading.Event()
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return  # The server is stopped: so are we, for the client.
            with server:
                back = threading.Thread(target=self._back, args=(server, client, committed), daemon=True)
                back.start()
                self._forth(client, server, committed)
                back.join()

    def _forth(self, client: socket.socket, server: socket.socket, committed: threading.Event) -> None:
        inserted = False
        seen = b""
        while data := _receive(client):
            # A word may come in two pieces.
            seen = seen[-32:] + data
            inserted = inserted or b"INSERT INTO predictions" in seen
            if b"COMMIT" in seen:
                if inserted and self._may_cut():
                    committed.set()
                inserted, seen = False, b""
            if not _send(server, data):
                return
            if committed.is_set():
                return
        _end(server)

    def _back(self, server: socket.socket, client: socket.socket, committed: threading.Event) -> None:
        while data := _receive(server):
            if committed.is_set() and b"COMMIT\x00" in data:
                with self._mutex:
                    self.cut += 1
                break
            if not _send(client, data):
                break
        _end(client)
        _end(server)

    def _may_cut(self) -> bool:
        with self._mutex:
            self._left -= 1
            return self._left >= 0


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""


def _send(target: socket.socket, data: bytes) -> bool:
    try:
        target.sendall(data)
    except OSError:
        return False
    return True


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # The other side was first.
