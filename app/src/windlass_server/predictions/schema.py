"""The one table. Changes go through migrations/, which a test compares with this.

A migration only adds (nullable columns, columns with a default, indexes): in an update and after going back to an older
image, replicas of both write into the same table.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Dialect, Double, Index, Integer, MetaData, Table, Text
from sqlalchemy.types import TypeDecorator

REVISION = "0001"
"""The last of `migrations/`."""


class UtcTime(TypeDecorator[float]):
    """Seconds since 1970 in Python, a UTC timestamp that people can read in the database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> datetime | None:
        """SQLite keeps no time zone: all of its times are UTC."""
        if value is None:
            return None
        at = datetime.fromtimestamp(value, UTC)
        return at.replace(tzinfo=None) if dialect.name == "sqlite" else at

    def process_result_value(self, value: Any, dialect: Dialect) -> float | None:
        """The other way."""
        if value is None:
            return None
        at: datetime = value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value
        return at.timestamp()


metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(column_0_N_name)s"})

predictions = Table(
    "predictions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("latency_seconds", Double, nullable=False),
    Column("status", Integer, nullable=False),
    Column("top_class", Text),
    Column("top_score", Double),
    Column("request_id", Text, nullable=False),
    # Retention deletes the oldest first.
    Index(None, "at"),
)
