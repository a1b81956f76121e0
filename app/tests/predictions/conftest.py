"""A real PostgreSQL, and replicas to record into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from windlass_testing.models import affine_tflite
from windlass_testing.postgres import Postgres, running_postgres
from windlass_testing.recording import Rig


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server per test process; tests that stop it start it again."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def rig(postgres: Postgres, tmp_path: Path) -> Iterator[Rig]:
    """A model and a database of the test's own; no replica yet."""
    if not postgres.running:
        postgres.start()
    affine_tflite(tmp_path / "models", "m", 1, 2.0, 0.0)
    rig = Rig(tmp_path, postgres.database())
    yield rig
    rig.stop()
