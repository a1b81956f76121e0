"""The predictions' table, on SQLite or PostgreSQL. Blocking: for one thread of its own."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, delete, event, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.sql import Select
from sqlalchemy.sql.dml import Insert

from . import migrate
from .schema import predictions

OUTAGE = (SQLAlchemyError, sqlite3.Error, OSError)
"""What is raised when the database is away, locked, full or not ours to write. (SQLite's own error comes from the
settings made on a new connection, which SQLAlchemy doesn't wrap.)"""
_BUSY_SECONDS = 5
_POSTGRESQL_ROW_BYTES = 128
"""What a row costs in PostgreSQL besides its values: header, key and index entries."""
_EXPIRE_ROWS = 5000
_ROWS_AT_ONCE = 64
"""SQLite takes at least 999 values in a statement."""


class Database:
    """Connects when it is first needed, and anew after `reset`. All methods may raise one of `OUTAGE`."""

    def __init__(self, url: URL) -> None:
        self.name = url.render_as_string(hide_password=True)
        self._url = url
        self._engine: Engine | None = None
        self._insert = _insert_or_ignore(url)
        self._file = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
        self._opened: tuple[int, int] | None = None

    def prepare(self) -> None:
        """Connects and migrates, where that isn't done yet."""
        if self._engine is not None and self._identity() != self._opened:
            # Removed or replaced while open: what we wrote would go to a file without a name.
            self.reset()
        if self._engine is None:
            engine = make_engine(self._url)
            try:
                migrate.upgrade(engine)
            except BaseException:
                engine.dispose()
                raise
            self._opened = self._identity()
            self._engine = engine

    def reset(self) -> None:
        """Lets the connection go."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def store(self, rows: Sequence[dict[str, Any]]) -> int:
        """Inserts rows; those whose id is there already are left as they are. Returns how many the database refused
        for what is in them, which won't change by trying again.
        """
        try:
            self._write(rows)
        except StatementError as error:
            if not _is_refusal(error):
                raise
            if len(rows) == 1:
                return 1
            middle = len(rows) // 2
            return self.store(rows[:middle]) + self.store(rows[middle:])
        return 0

    def expire(self, *, max_bytes: int, before: float) -> int:
        """Deletes the rows answered before `before` (seconds since 1970), and the oldest while all rows take more than
        about `max_bytes`. Returns how many, at most 5000 of each: call again until it is 0.
        """
        oldest = select(predictions.c.id).order_by(predictions.c.at)
        with self._begin() as connection:
            gone = _delete(connection, oldest.where(predictions.c.at < before).limit(_EXPIRE_ROWS))
            size = _size(connection, max_bytes)
            if size > max_bytes:
                rows = connection.scalar(select(func.count()).select_from(predictions)) or 0
                excess = math.ceil(rows * (1 - max_bytes / size))
                gone += _delete(connection, oldest.limit(min(excess, _EXPIRE_ROWS)))
        return gone

    def ping(self) -> None:
        """Asks whether the table is there and can be written to."""
        with self._begin() as connection:
            connection.execute(select(predictions.c.id).limit(1)).all()

    def _begin(self) -> AbstractContextManager[Connection]:
        assert self._engine is not None, "prepare comes first"
        return self._engine.begin()

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        with self._begin() as connection:
            if self._file is not None and (values := _bound_for_sqlite(rows)) is not None:
                for start in range(0, len(values), _ROWS_AT_ONCE):
                    part = values[start : start + _ROWS_AT_ONCE]
                    connection.exec_driver_sql(_insert_at_once(len(part)), tuple(chain.from_iterable(part)))
            else:
                connection.execute(self._insert, rows)

    def _identity(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino


def make_engine(url: URL) -> Engine:
    """One connection, with time limits. On SQLite each transaction locks the file from its start, so that none fails
    half way for another process, and a migration is alone.
    """
    if url.get_backend_name() == "postgresql":
        options: dict[str, Any] = {
            "connect_timeout": 5,
            "options": "-c statement_timeout=30s -c lock_timeout=30s",
            # A server that is gone without a word is noticed within seconds, not after TCP's quarter of an hour.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "application_name": "windlass-server",
        }
        return create_engine(
            url,
            pool_size=1,
            max_overflow=0,
            hide_parameters=True,
            connect_args={name: value for name, value in options.items() if name not in url.query},
        )
    assert url.database is not None
    # Made here so that it and the files that SQLite puts beside it are for the owner only.
    os.close(os.open(url.database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    busy = {} if "timeout" in url.query else {"timeout": _BUSY_SECONDS}
    engine = create_engine(url, pool_size=1, max_overflow=0, hide_parameters=True, connect_args=busy)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # Python's sqlite3 begins transactions late, and none for a schema: we do it ourselves.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        # In WAL mode a power cut may lose the last commits, never the file; a kill loses nothing.
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA journal_size_limit=67108864")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _insert_or_ignore(url: URL) -> Insert:
    insert = postgresql.insert if url.get_backend_name() == "postgresql" else sqlite.insert
    return insert(predictions).on_conflict_do_nothing(index_elements=["id"])


_SQLITE = sqlite.dialect()
_NAMES = [column.name for column in predictions.columns]
_IN_ORDER = itemgetter(*_NAMES)
_BINDERS = [
    (index, bind)
    for index, column in enumerate(predictions.columns)
    if (bind := column.type.dialect_impl(_SQLITE).bind_processor(_SQLITE)) is not None
]
"""Of the columns whose values SQLAlchemy converts."""


def _bound_for_sqlite(rows: Sequence[dict[str, Any]]) -> list[list[Any]] | None:
    """Values in the order of the columns, as SQLAlchemy binds them; None: some can't be, which it says better."""
    values = [[*_IN_ORDER(row)] for row in rows]
    try:
        for row in values:
            for index, bind in _BINDERS:
                row[index] = bind(row[index])
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return values


@cache
def _insert_at_once(count: int) -> str:
    """So many rows by one statement. For each statement Python's lock is let go and taken again, and whoever answers
    requests holds it: by `executemany` that is so for each row."""
    row = f"({', '.join('?' * len(_NAMES))})"
    names = ", ".join(f'"{name}"' for name in _NAMES)
    return f"INSERT INTO predictions ({names}) VALUES {', '.join([row] * count)} ON CONFLICT (id) DO NOTHING"  # noqa: S608 - names of the schema


def _is_refusal(error: StatementError) -> bool:
    """Whether it says something about a row rather than about the database."""
    return isinstance(error, (DataError, IntegrityError)) or not isinstance(error, DBAPIError)


def _delete(connection: Connection, ids: Select[str]) -> int:
    return connection.execute(delete(predictions).where(predictions.c.id.in_(ids))).rowcount


def _size(connection: Connection, bound: int) -> int:
    """Bytes that the rows take; exact only when it may be above the bound."""
    if connection.dialect.name == "sqlite":
        pragmas = ("page_count", "freelist_count", "page_size")
        pages, free, page_size = (connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in pragmas)
        return int((pages - free) * page_size)
    size = connection.scalar(text("SELECT pg_total_relation_size('predictions')"))
    if size > bound:
        # Deleted rows don't make PostgreSQL's files smaller: only the rows themselves tell.
        size = connection.scalar(
            text("SELECT coalesce(sum(pg_column_size(p.*) + :more), 0) FROM predictions p"),
            {"more": _POSTGRESQL_ROW_BYTES},
        )
    return int(size)
