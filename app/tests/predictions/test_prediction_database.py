"""The database's schema and where it is: migrations from nothing, by many at once, and beside another release."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text
from sqlalchemy.engine import URL

from windlass_server.predictions.database import Database, make_engine
from windlass_server.predictions.migrate import configuration, upgrade
from windlass_server.predictions.prediction import Prediction
from windlass_server.predictions.schema import REVISION, metadata, predictions
from windlass_server.predictions.settings import PredictionLogError, PredictionLogSettings, database_url

ROW = {
    "at": 1.5,
    "model": "m",
    "version": 1,
    "digest": "",
    "epoch": 1,
    "protocol": "v1",
    "signature": "s",
    "latency_seconds": 0.1,
    "status": 200,
    "top_class": None,
    "top_score": None,
    "request_id": "",
}


@pytest.fixture
def engine(tmp_path: Path):
    engine = make_engine(URL.create("sqlite", database=str(tmp_path / "log.sqlite")))
    yield engine
    engine.dispose()


def migrate_from_nothing(engine: Engine) -> None:
    """By all steps, as `upgrade` does it with a database that has some of them."""
    with engine.begin() as connection:
        command.upgrade(configuration(connection), "head")


def test_migrations_lead_to_the_schema_of_the_code(engine: Engine) -> None:
    migrate_from_nothing(engine)
    with engine.begin() as connection:
        command.check(configuration(connection))
        assert ScriptDirectory.from_config(configuration(connection)).get_current_head() == REVISION


def test_a_prediction_has_a_column_for_each_field() -> None:
    assert set(Prediction._fields) == {column.name for column in predictions.columns}


def test_a_new_database_is_what_all_steps_lead_to(engine: Engine, tmp_path: Path) -> None:
    migrated = make_engine(URL.create("sqlite", database=str(tmp_path / "migrated.sqlite")))
    migrate_from_nothing(migrated)
    upgrade(engine)
    assert described(engine) == described(migrated)
    migrated.dispose()


def described(engine: Engine) -> tuple[list[tuple[str, ...]], str]:
    """Its schema, without the white space, and Alembic's version."""
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name")).all()
        version = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return [tuple("".join(str(value).split()) for value in row) for row in rows], version


def test_a_database_without_the_last_step_gets_it(engine: Engine) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        command.downgrade(configuration(connection), "base")
    upgrade(engine)
    assert "predictions" in inspect(engine).get_table_names()
    assert described(engine)[1] == REVISION


def test_the_check_sees_a_difference(engine: Engine) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE predictions DROP COLUMN top_class"))
    with engine.begin() as connection, pytest.raises(Exception, match="top_class"):
        command.check(configuration(connection))


def test_upgrading_twice_changes_nothing(engine: Engine) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO predictions VALUES ('x','2026-01-01',1,1,1,1,1,1,1,1,1,1,1)"))
        before = connection.execute(text("SELECT * FROM sqlite_master")).all()
    upgrade(engine)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT * FROM sqlite_master")).all() == before
        assert connection.scalar(text("SELECT count(*) FROM predictions")) == 1


def test_going_back_leaves_nothing(engine: Engine) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        command.downgrade(configuration(connection), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    assert set(metadata.tables) == {"predictions"}


def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "windlass_server.predictions", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_replicas_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.sqlite'}?timeout=60"
    processes = [run("upgrade", "--predictions", url) for _ in range(4)]
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert output.endswith("is up to date\n")


def test_a_migration_that_is_interrupted_leaves_nothing_behind(engine: Engine, tmp_path: Path) -> None:
    with engine.connect() as connection:
        transaction = connection.begin()
        command.upgrade(configuration(connection), "head")
        assert "predictions" in inspect(connection).get_table_names()
        transaction.rollback()
    assert inspect(engine).get_table_names() == []
    upgrade(engine)
    assert "predictions" in inspect(engine).get_table_names()


def test_a_database_of_a_newer_release_is_left_as_it_is_and_written_to(tmp_path: Path) -> None:
    url = URL.create("sqlite", database=str(tmp_path / "log.sqlite"))
    engine = make_engine(url)
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE predictions ADD COLUMN invented TEXT DEFAULT 'later'"))
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    database = Database(url)
    database.prepare()
    assert database.store([{"id": "a", **ROW}]) == 0
    database.reset()
    with sqlite3.connect(tmp_path / "log.sqlite") as connection:
        assert connection.execute("SELECT id, invented FROM predictions").fetchall() == [("a", "later")]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (None, "sqlite:////state/predictions.sqlite"),
        ("", "sqlite:////state/predictions.sqlite"),
        ("sqlite:////var/log/p.sqlite", "sqlite:////var/log/p.sqlite"),
        ("sqlite+aiosqlite:////p.sqlite", "sqlite:////p.sqlite"),
        ("postgresql://u:secret@h/d", "postgresql+psycopg://u:***@h/d"),
        (
            "postgresql+asyncpg://h/d?passfile=/run/secrets/pgpass",
            "postgresql+psycopg://h/d?passfile=%2Frun%2Fsecrets%2Fpgpass",
        ),
        ("off", None),
    ],
)
def test_urls_that_are_understood(text: str | None, url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windlass_server.predictions.settings.find_spec", lambda name: name)
    found = database_url(text, Path("/state"))
    assert (found.render_as_string(hide_password=True) if found else None) == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "can't be read: write off, sqlite:////"),
        ("://u:secret@h", "can't be read"),
        ("mysql://u:secret@h/d", "can't write to mysql: use sqlite or postgresql"),
        ("sqlite://", "names no file: write sqlite:////absolute/path"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql://u:secret@h/d", "pip install 'windlass-server[postgresql]'"),
    ],
)
def test_urls_that_are_refused_say_the_remedy_and_no_password(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass_server.predictions.settings.find_spec", lambda _name: None)
    with pytest.raises(PredictionLogError, match=message.replace("[", r"\[")) as raised:
        database_url(text, Path("/state"))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample": 1.5}, "sample is 1.5: write a share from 0 to 1"),
        ({"sample": -0.1}, "sample is -0.1"),
        ({"sample": float("nan")}, "sample is nan"),
        ({"max_bytes": 1000}, "bound is 1000 bytes: at least 1048576"),
        ({"max_age_seconds": 0}, "age is 0 s: more than 0"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(PredictionLogError, match=message):
        PredictionLogSettings(**changes)


def test_the_url_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path / 'log.sqlite'}\n")
    process = run("upgrade", "--predictions-file", str(tmp_path / "url"))
    assert process.communicate()[0].endswith("is up to date\n")
    assert (tmp_path / "log.sqlite").exists()
    process = run("upgrade", "--predictions-file", str(tmp_path / "none"))
    assert "No such file" in process.communicate()[1]
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        ("off", 0, "there is nothing to do"),
        ("mysql://h/d", 2, "use sqlite or postgresql"),
        ("sqlite:////no/such/folder/log.sqlite", 1, "can't be migrated"),
    ],
)
def test_the_command_says_how_it_went(tmp_path: Path, url: str, code: int, message: str) -> None:
    process = run("upgrade", WINDLASS_PREDICTIONS=url, WINDLASS_STATE_DIR=str(tmp_path))
    output, errors = process.communicate()
    assert process.returncode == code
    assert message in output + errors
    assert "Traceback" not in errors


def test_rows_stored_at_once_are_the_rows_that_sqlalchemy_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**ROW, "id": f"{number:03}", "at": 1.7e9 + number / 7, "top_score": number / 3} for number in range(130)]
    stored = []
    for way in ("at once", "one by one"):
        if way == "one by one":
            monkeypatch.setattr("windlass_server.predictions.database._bound_for_sqlite", lambda _: None)
        database = Database(URL.create("sqlite", database=str(tmp_path / f"{way}.sqlite")))
        database.prepare()
        assert database.store(rows[:70]) == 0
        assert database.store(rows) == 0  # those that are there stay as they are
        database.reset()
        with sqlite3.connect(tmp_path / f"{way}.sqlite") as connection:
            stored.append(connection.execute("SELECT * FROM predictions ORDER BY id").fetchall())
    assert stored[0] == stored[1]
    assert len(stored[0]) == 130


def test_a_time_that_no_calendar_has_is_refused_alone(tmp_path: Path) -> None:
    database = Database(URL.create("sqlite", database=str(tmp_path / "log.sqlite")))
    database.prepare()
    rows = [{**ROW, "id": f"{number}", "at": 1e300 if number == 3 else 1.0} for number in range(5)]
    assert database.store(rows) == 1
    database.reset()
    with sqlite3.connect(tmp_path / "log.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM predictions").fetchone() == (4,)
