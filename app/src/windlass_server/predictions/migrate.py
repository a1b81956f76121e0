"""Brings the database to this release's schema. Safe for several replicas that start at once on one database."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

_ADVISORY_LOCK = int.from_bytes(b"windlass", "big")
"""PostgreSQL's lock for who migrates; the transaction's end frees it."""
_log = logging.getLogger(__name__)


def configuration(connection: Connection) -> Config:
    """For Alembic's commands on this connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine) -> None:
    """All steps that are missing, in one transaction that only one process is in at a time (on SQLite every
    transaction of `database.make_engine` is). A database that a newer release has migrated stays as it is: steps only
    add, so this release can write to it. Raises what the database raises; then nothing was changed.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        config = configuration(connection)
        scripts = ScriptDirectory.from_config(config)
        current = MigrationContext.configure(connection).get_current_revision()
        head = scripts.get_current_head()
        if current == head:
            return
        if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
            _log.info("the prediction log's database is of a newer release (schema %s, ours is %s)", current, head)
            return
        command.upgrade(config, "head")
        _log.info("the prediction log's database was brought from schema %s to %s", current or "none", head)
