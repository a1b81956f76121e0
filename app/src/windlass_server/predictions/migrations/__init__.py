"""Alembic's folder: the database's schema, step by step. `windlass_server.predictions.migrate` runs it."""
