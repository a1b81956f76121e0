"""Alembic runs this for each command; `migrate.py` hands the connection over, inside its transaction."""

from __future__ import annotations

from alembic import context

from windlass_server.predictions.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
