"""The prediction log on a real SQLite file: what is recorded is stored once, whatever happens between."""

from __future__ import annotations

import dataclasses
import gc
import math
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from windlass_server.predictions.log import PredictionLog
from windlass_server.predictions.prediction import Prediction, PredictionSink, new_id
from windlass_server.predictions.settings import PredictionLogError, PredictionLogSettings
from windlass_server.predictions.spool import Spool

QUICK = PredictionLogSettings(
    flush_seconds=0.01, first_wait_seconds=0, retry_seconds=0.01, max_retry_seconds=0.05, ping_seconds=0.05
)


def prediction(**changes: Any) -> Prediction:
    usual = Prediction(
        id=uuid.uuid4().hex,
        model="digits",
        version=7,
        digest="sha256:" + "a" * 64,
        epoch=12,
        protocol="v2",
        signature="serving_default",
        latency_seconds=0.0123,
        status=200,
        top_class="seven",
        top_score=0.75,
        request_id="request-1",
        at=1_700_000_000.25,
    )
    return usual._replace(**changes)


def fresh(**changes: Any) -> Prediction:
    return prediction(at=time.time(), **changes)


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"
        threading.Event().wait(0.005)


@contextmanager
def opened(state: Path, settings: PredictionLogSettings = QUICK, url: str | None = None) -> Iterator[PredictionLog]:
    log = PredictionLog.open(url or f"sqlite:///{state / 'predictions.sqlite'}?timeout=0.01", state, settings)
    try:
        yield log
    finally:
        log.close()


def rows(state: Path, columns: str = "*") -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(state / "predictions.sqlite")
    try:
        return connection.execute(f"SELECT {columns} FROM predictions ORDER BY at, id").fetchall()
    finally:
        connection.close()


def ids(state: Path) -> list[str]:
    return sorted(row[0] for row in rows(state, "id"))


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Another process that holds the database's write lock."""
    connection = sqlite3.connect(state / "predictions.sqlite", isolation_level=None, timeout=60)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def test_a_prediction_is_stored_as_it_was_recorded(tmp_path: Path) -> None:
    with opened(tmp_path, dataclasses.replace(QUICK, max_age_seconds=1e10)) as log:
        sink: PredictionSink = log
        sink.record(prediction(id="one"))
    assert rows(tmp_path) == [
        (
            *("one", "2023-11-14 22:13:20.250000", "digits", 7, "sha256:" + "a" * 64, 12, "v2", "serving_default"),
            *(0.0123, 200, "seven", 0.75, "request-1"),
        )
    ]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"top_class": None, "top_score": None}, (None, None, "request-1")),
        ({"top_score": math.nan}, ("seven", None, "request-1")),
        ({"top_score": -math.inf}, ("seven", None, "request-1")),
        ({"request_id": "a\x00b"}, ("seven", 0.75, "ab")),
        ({"request_id": "\ud800"}, ("seven", 0.75, "?")),
        ({"request_id": "ü" * 10_000}, ("seven", 0.75, "ü" * 256)),
        ({"version": 2**80, "epoch": 2**80, "status": 2**40}, ("seven", 0.75, "request-1")),
        ({"latency_seconds": math.inf}, ("seven", 0.75, "request-1")),
    ],
)
def test_what_no_database_takes_is_made_harmless(tmp_path: Path, given: dict[str, Any], kept: tuple[Any, ...]) -> None:
    with opened(tmp_path) as log:
        log.record(fresh(**given))
        until(lambda: log.counters.stored, "stored")
    assert rows(tmp_path, "top_class, top_score, request_id") == [kept]


def test_ids_are_unique_and_in_the_order_of_their_times() -> None:
    at = 1_800_000_000.0
    ids = [new_id(at + later) for later in (0.0, 0.0, 1e-3, 1.0, 1e9)]
    assert len(set(ids)) == len(ids)
    assert ids[2:] == sorted(ids[2:])
    assert max(ids[:2]) < ids[2]
    assert {len(each) for each in ids} == {32}


def test_recorded_twice_it_is_kept_once(tmp_path: Path) -> None:
    same = fresh()
    with opened(tmp_path) as log:
        log.record(same)
        log.record(same)
        until(lambda: log.counters.stored == 2, "both stored")
        log.record(same)
    assert ids(tmp_path) == [same.id]


def test_predictions_of_many_threads_all_arrive(tmp_path: Path) -> None:
    batches = [[fresh() for _ in range(500)] for _ in range(8)]
    with opened(tmp_path) as log:
        threads = [
            threading.Thread(target=lambda batch=batch: [log.record(each) for each in batch]) for batch in batches
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert ids(tmp_path) == sorted(each.id for batch in batches for each in batch)
    assert log.counters.recorded == log.counters.stored == 4000
    assert not any(log.counters.lost.values())


def test_a_clean_stop_leaves_nothing_in_the_spool(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for _ in range(1000):
            log.record(fresh())
    assert len(rows(tmp_path)) == 1000
    assert [path.name for path in (tmp_path / "predictions-spool").iterdir()] == ["lock"]


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        until(lambda: log.status() == "ok", "connected")
        with locked(tmp_path):
            log.record(fresh())
            until(lambda: log.spool_bytes, "spooled")
            files = [path for path in tmp_path.rglob("*") if path.is_file()]
            assert {"predictions.sqlite", "predictions.sqlite-wal", "lock"} < {path.name for path in files}
            assert {path.name: path.stat().st_mode & 0o077 for path in files if path.stat().st_mode & 0o077} == {}


def test_while_the_database_is_locked_predictions_wait_on_disk(tmp_path: Path) -> None:
    recorded = []
    with opened(tmp_path) as log:
        until(lambda: log.status() == "ok", "connected")
        with locked(tmp_path):
            for _ in range(3):
                recorded += [fresh() for _ in range(700)]
                for each in recorded[-700:]:
                    log.record(each)
                until(lambda: log.status() == "unavailable", "found out")
            until(lambda: log.spool_bytes > 2000 * 100, "spooled")
            assert "database is locked" in log.problem
            assert log.counters.stored == 0
        until(lambda: log.counters.stored == 2100, "all stored")
        until(lambda: log.status() == "ok", "noticed")
        assert log.problem == ""
        assert log.counters.replayed == 2100
    assert ids(tmp_path) == sorted(each.id for each in recorded)


def test_what_waits_at_the_end_is_stored_by_the_next_start(tmp_path: Path) -> None:
    away = tmp_path / "away"
    recorded = [fresh() for _ in range(1200)]
    log = PredictionLog.open(f"sqlite:///{away / 'predictions.sqlite'}", tmp_path, QUICK)
    for each in recorded:
        log.record(each)
    log.close()
    assert log.counters.stored == 0
    away.mkdir()
    with opened(tmp_path, url=f"sqlite:///{away / 'predictions.sqlite'}") as log:
        until(lambda: log.counters.stored == 1200, "all stored")
        assert log.counters.replayed == 1200
    assert ids(away) == sorted(each.id for each in recorded)


KILLED = """
import sys, uuid, time
from pathlib import Path
from windlass_server.predictions.log import PredictionLog
from windlass_server.predictions.prediction import Prediction
from windlass_server.predictions.settings import PredictionLogSettings
url, state = sys.argv[1:]
log = PredictionLog.open(url, Path(state), PredictionLogSettings(flush_seconds=0.01, batch_rows=20))
def until(condition):
    while not condition():
        time.sleep(0.001)  # between two looks: counters tell nobody that they changed
for number in range(5000):
    log.record(Prediction(f"id-{number:05}", "m", 1, "", 1, "v1", "s", 0.1, 200, None, None, "", time.time()))
    if number == 4000:
        until(lambda: log.counters.stored)  # so it is killed while it stores
print("recorded", flush=True)
until(lambda: log.counters.spooled == 5000)
print("flushed", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("signal_at", ["recorded", "flushed"])
def test_a_killed_replica_loses_at_most_what_was_not_yet_on_disk(tmp_path: Path, signal_at: str) -> None:
    """Killed while it stores, too: the next start stores the rest, and nothing twice."""
    url = f"sqlite:///{tmp_path / 'predictions.sqlite'}"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, url, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdin, process.stdout:
        while process.stdout.readline().strip() != signal_at:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    with opened(tmp_path, url=url) as log:
        until(lambda: log.status() == "ok" and log.spool_bytes == 0, "the spool is empty")
    kept = ids(tmp_path)
    assert kept == [f"id-{number:05}" for number in range(len(kept))], "a gap, or a double"
    assert len(kept) == 5000 or signal_at == "recorded"


def test_a_database_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        log.record(fresh(id="before"))
        until(lambda: log.counters.stored == 1, "stored")
        for path in tmp_path.glob("predictions.sqlite*"):
            path.unlink()
        log.record(fresh(id="after"))
        until(lambda: log.counters.stored == 2, "stored again")
    assert ids(tmp_path) == ["after"]


def test_a_folder_that_is_away_for_a_while_costs_nothing(tmp_path: Path) -> None:
    place = tmp_path / "database"
    place.mkdir()
    with opened(tmp_path, url=f"sqlite:///{place / 'predictions.sqlite'}") as log:
        log.record(fresh(id="1"))
        until(lambda: log.counters.stored == 1, "stored")
        place.rename(tmp_path / "elsewhere")
        log.record(fresh(id="2"))
        until(lambda: log.status() == "unavailable", "found out")
        (tmp_path / "elsewhere").rename(place)
        until(lambda: log.counters.stored == 2, "stored again")
        until(lambda: log.status() == "ok", "noticed")
    assert ids(place) == ["1", "2"]


def test_an_idle_log_notices_that_the_database_is_away(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        until(lambda: log.status() == "ok", "connected")
        with locked(tmp_path):
            until(lambda: log.status() == "unavailable", "found out")
        until(lambda: log.status() == "ok", "recovered")


def test_a_spool_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        until(lambda: log.status() == "ok", "connected")
        shutil.rmtree(tmp_path / "predictions-spool")
        (tmp_path / "predictions-spool").write_text("in the way")
        recorded = [fresh() for _ in range(2000)]
        for each in recorded:
            log.record(each)
        until(lambda: log.counters.stored == 2000, "stored from memory")
    assert ids(tmp_path) == sorted(each.id for each in recorded)


def test_with_neither_disk_nor_database_the_newest_are_kept_and_the_rest_counted(tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, max_queued=100, batch_rows=10)
    with opened(tmp_path, settings) as log:
        until(lambda: log.status() == "ok", "connected")
        with locked(tmp_path):
            shutil.rmtree(tmp_path / "predictions-spool")
            (tmp_path / "predictions-spool").write_text("in the way")
            for number in range(500):
                log.record(fresh(id=f"{number:03}"))
                until(lambda: not log._queue, "taken from the queue")
        until(lambda: log.counters.stored + sum(log.counters.lost.values()) == 500, "all accounted for")
    assert log.counters.lost["disk"] > 0
    assert len(ids(tmp_path)) == log.counters.stored
    assert ids(tmp_path)[-100:] == [f"{number:03}" for number in range(400, 500)]


@pytest.mark.parametrize("space_again", [True, False])
def test_what_the_disk_did_not_take_is_written_when_it_can_be_and_else_counted_at_the_end(
    tmp_path: Path, space_again: bool
) -> None:
    spool, place = tmp_path / "predictions-spool", tmp_path / "away"
    with opened(tmp_path, url=f"sqlite:///{place / 'predictions.sqlite'}") as log:
        shutil.rmtree(spool)
        spool.write_text("in the way")
        for number in range(700):
            log.record(fresh(id=f"{number:03}"))
        until(lambda: not log._queue and len(log._unspooled) == 700, "in memory")
        if space_again:
            spool.unlink()
            log.record(fresh(id="one more"))
            until(lambda: log.counters.spooled == 701, "on disk")
    assert log.counters.lost["disk"] == (0 if space_again else 700)
    if not space_again:
        spool.unlink()
    place.mkdir()
    with opened(tmp_path, url=f"sqlite:///{place / 'predictions.sqlite'}") as log:
        until(lambda: log.status() == "ok" and not log.spool_bytes, "stored")
    assert len(ids(place)) == (701 if space_again else 0)


def test_a_long_outage_costs_the_oldest_and_they_are_counted(tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, max_bytes=1024 * 1024, max_queued=50_000)
    place = tmp_path / "away"
    with opened(tmp_path, settings, url=f"sqlite:///{place / 'predictions.sqlite'}") as log:
        for number in range(8000):
            log.record(fresh(id=f"{number:05}"))
        until(lambda: not log._queue and log.counters.lost["spool"], "spooled")
        assert log.spool_bytes <= 1024 * 1024
        place.mkdir()
        until(lambda: log.counters.stored + log.counters.lost["spool"] == 8000, "all accounted for")
    kept = ids(place)
    assert len(kept) == log.counters.stored
    assert kept[-2000:] == [f"{number:05}" for number in range(6000, 8000)]


def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, flush_seconds=3600, batch_rows=1000, max_queued=10)
    with opened(tmp_path, settings) as log:
        for _ in range(15):
            log.record(fresh())
        assert log.counters.lost["queue"] == 5
    assert len(ids(tmp_path)) == 10


def test_a_full_batch_does_not_wait_for_the_interval(tmp_path: Path) -> None:
    with opened(tmp_path, dataclasses.replace(QUICK, flush_seconds=3600, batch_rows=50)) as log:
        for _ in range(50):
            log.record(fresh())
        until(lambda: log.counters.stored == 50, "stored")


def test_a_sample_is_a_share_that_the_id_decides(tmp_path: Path) -> None:
    drawn = [fresh(id=f"id-{number}") for number in range(4000)]
    with opened(tmp_path, dataclasses.replace(QUICK, sample=0.25)) as log:
        for each in drawn + drawn:
            log.record(each)
    kept = len(ids(tmp_path))
    assert 800 < kept < 1200
    assert log.counters.recorded == 2 * kept
    assert log.counters.sampled_out == 2 * (4000 - kept)


def test_a_row_that_the_database_refuses_does_not_hold_up_the_others(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "predictions-spool", max_bytes=2**20, max_age_seconds=1e6, segment_bytes=2**20)
    good = [
        b'{"id":"%d","at":1,"model":"m","version":1,"digest":"","epoch":1,"protocol":"v1",' % number
        for number in range(9)
    ]
    rest = b'"signature":"s","latency_seconds":0.1,"status":200,"request_id":"","of a newer release":1}'
    spool.append([each + rest for each in good[:5]] + [b'{"id":"bad","at":1}'] + [each + rest for each in good[5:]])
    spool.close()
    with opened(tmp_path, dataclasses.replace(QUICK, max_age_seconds=1e10)) as log:
        until(lambda: log.counters.stored == 9, "the good ones stored")
        assert log.counters.lost["refused"] == 1
        until(lambda: log.status() == "ok", "noticed")
    assert ids(tmp_path) == [str(number) for number in range(9)]


def test_rows_beyond_the_age_go(tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, max_age_seconds=3600, expire_seconds=0.01)
    with opened(tmp_path, settings) as log:
        log.record(prediction(id="old", at=time.time() - 7200))
        log.record(prediction(id="new", at=time.time() - 1800))
        until(lambda: log.counters.expired == 1, "expired")
    assert ids(tmp_path) == ["new"]


def test_rows_beyond_the_size_go_oldest_first(tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, max_bytes=1024 * 1024, expire_seconds=0.01)
    start = time.time() - 1000
    with opened(tmp_path, settings) as log:
        for number in range(12_000):
            log.record(prediction(id=f"{number:05}", at=start + number / 100))
            if number % 1000 == 999:  # The spool has the same bound.
                until(lambda stored=number + 1: log.counters.stored == stored, "stored")
        until(lambda: len(ids(tmp_path)) < 6000, "expired down to the bound")
    kept = ids(tmp_path)
    assert log.counters.expired == 12_000 - len(kept)
    assert len(kept) > 1000
    assert kept == [f"{number:05}" for number in range(12_000 - len(kept), 12_000)]


@pytest.mark.parametrize("off", ["off", "OFF", " Off "])
def test_off_keeps_nothing_anywhere(tmp_path: Path, off: str) -> None:
    log = PredictionLog.open(off, tmp_path)
    log.record(fresh())
    log.close()
    assert (log.status(), log.problem, log.spool_bytes) == ("disabled", "", 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("default", [None, "", " "])
def test_the_default_is_sqlite_in_the_state_directory(tmp_path: Path, default: str | None) -> None:
    log = PredictionLog.open(default, tmp_path, QUICK)
    log.record(fresh())
    log.close()
    assert len(ids(tmp_path)) == 1


def test_a_state_directory_is_for_one_process(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(PredictionLogError, match="in use by another process: give each"):
        PredictionLog.open(None, tmp_path, QUICK)
    with opened(tmp_path) as log:
        until(lambda: log.status() == "ok", "the folder is free again")


def test_after_close_it_says_so_and_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        pass
    log.record(fresh())
    log.close()
    assert log.counters.lost["closed"] == 1
    assert log.status() == "unavailable"
    assert log.problem.endswith("can't be written: it is closed")


def test_close_keeps_to_its_time_when_the_database_hangs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'predictions.sqlite'}?timeout=3600"
    log = PredictionLog.open(url, tmp_path, QUICK)
    until(lambda: log.status() == "ok", "connected")
    with locked(tmp_path):
        log.record(fresh(id="hung"))
        until(lambda: log.spool_bytes, "spooled")
        begun = time.monotonic()
        log.close(timeout=0.2)
        assert time.monotonic() - begun < 30
    until(lambda: not any(thread.is_alive() for thread in log._threads), "the thread ends by itself")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_of_it_stays_behind_in_the_process(tmp_path: Path) -> None:
    gc.collect()
    before = descriptors()
    for _ in range(3):
        with opened(tmp_path) as log:
            log.record(fresh())
    assert descriptors() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("predictions-")]
