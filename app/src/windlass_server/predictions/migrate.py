"""Brings the database to this release's schema. Safe for several replicas that start at once on one database."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from .schema import REVISION, metadata

if TYPE_CHECKING:
    from alembic.config import Config

_ADVISORY_LOCK = int.from_bytes(b"windlass", "big")
"""PostgreSQL's lock for who migrates; the transaction's end frees it."""
_VERSION_TABLE = "alembic_version"
"""Where Alembic keeps what schema there is."""
_MAKE_VERSION_TABLE = (
    f"CREATE TABLE {_VERSION_TABLE} (version_num VARCHAR(32) NOT NULL, "
    f"CONSTRAINT {_VERSION_TABLE}_pkc PRIMARY KEY (version_num))"
)
"""As Alembic does."""
_READ_VERSION = f"SELECT version_num FROM {_VERSION_TABLE}"  # noqa: S608 - a constant
_WRITE_VERSION = f"INSERT INTO {_VERSION_TABLE} VALUES (:revision)"  # noqa: S608 - a constant
_log = logging.getLogger(__name__)


def configuration(connection: Connection) -> Config:
    """For Alembic's commands on this connection."""
    from alembic.config import Config  # see `upgrade`

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine) -> None:
    """All steps that are missing, in one transaction that only one process is in at a time (on SQLite every
    transaction of `database.make_engine` is). A database that a newer release has migrated stays as it is: steps only
    add, so this release can write to it. Raises what the database raises; then nothing was changed.

    Alembic is only imported where there is a step to do: it takes 0.1 s and 7 MB, and nearly every database is new or
    of this release.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        there = inspect(connection).has_table
        if not any(there(name) for name in (_VERSION_TABLE, *metadata.tables)):
            _make_new(connection)
            return
        current = connection.scalar(text(_READ_VERSION)) if there(_VERSION_TABLE) else None
        if current == REVISION:
            return
        from alembic import command
        from alembic.script import ScriptDirectory

        config = configuration(connection)
        if current is not None:
            known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
            if current not in known:
                _log.info(
                    "the prediction log's database is of a newer release (schema %s, ours is %s)", current, REVISION
                )
                return
        command.upgrade(config, "head")
        _log.info("the prediction log's database was brought from schema %s to %s", current or "none", REVISION)


def _make_new(connection: Connection) -> None:
    """What all steps together lead to."""
    metadata.create_all(connection)
    connection.execute(text(_MAKE_VERSION_TABLE))
    connection.execute(text(_WRITE_VERSION), {"revision": REVISION})
    _log.info("the prediction log's database was made, with schema %s", REVISION)
