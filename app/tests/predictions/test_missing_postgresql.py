"""A machine without PostgreSQL is told which package it lacks; CI doesn't go on without."""

from __future__ import annotations

from pathlib import Path

import pytest

from windlass_testing.postgres import binaries, running_postgres


@pytest.fixture
def _none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windlass_testing.postgres.binaries", lambda: None)


@pytest.mark.usefixtures("_none")
@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)], ids=["fails in CI", "skips"]
)
def test_a_missing_postgresql_is_loud(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="apt-get install postgresql"), running_postgres():
        pass


def test_postgresql_that_is_too_old_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for version in (14, 15, 9):
        folder = tmp_path / str(version) / "bin"
        folder.mkdir(parents=True)
        (folder / "initdb").touch()
        (folder / "postgres").write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}.3 (Debian)'\n")
        (folder / "postgres").chmod(0o755)
    assert binaries(tmp_path) == tmp_path / "15" / "bin"
    (tmp_path / "15" / "bin" / "initdb").unlink()
    assert binaries(tmp_path) is None
