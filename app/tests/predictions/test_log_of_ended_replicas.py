"""A replica that is killed or stopped under load: what its clients got answers to is in the database once, but for the
last second before a SIGKILL.
"""

from __future__ import annotations

import signal
import time

import pytest

from windlass_testing.evidence import measured
from windlass_testing.load import Load
from windlass_testing.one_machine import wait_until
from windlass_testing.recording import Rig, answered, lost, numbers

pytestmark = pytest.mark.hardening

SOAK = pytest.mark.soak
WRITTEN_SECONDS = 2.0
"""A second until what was recorded is written, and one for a busy disk."""
SLOW_INSERTS = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.004); RETURN NULL; END';
CREATE TRIGGER slow AFTER INSERT ON predictions FOR EACH ROW EXECUTE FUNCTION slow();
"""
"""Rows that are there already aren't inserted, and cost no time."""


def check_after_a_kill(rig: Rig, load: Load, killed: float) -> int:
    """Each row once, of a request that was sent; of what was answered only the last second before the kill is missing.
    Gives how many are."""
    rows = rig.rows()
    assert max(rows.values()) == 1
    before = answered(load)
    gone = [answer for answer in before if answer.request_id not in rows]
    assert [answer for answer in gone if answer.done < killed - WRITTEN_SECONDS] == []
    # Recorded, but killed before the answer was out: never more than were in flight.
    assert len(set(rows) - {answer.request_id for answer in before}) <= load.senders
    return len(gone)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=SOAK)])
def test_a_replica_killed_in_mid_replay_again_and_again_loses_and_doubles_nothing(rig: Rig, kills: int) -> None:
    replica = rig.start()
    with rig.load(150) as load:
        rig.wait_until_stored(50)
        rig.server.stop()
        stopped = len(load.answers)
        wait_until("the spool has something", lambda: len(load.answers) - stopped > 1200 + 250 * kills, 300)
    wait_until("all is on disk", lambda: (said := numbers(replica))["spooled"] == said["recorded"])
    replica.process.stop(signal.SIGKILL)
    total = len(answered(load))
    rig.server.start()
    rig.database.query(SLOW_INSERTS)
    busy = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep'"
    for kill in range(kills):
        before = rig.database.count()
        replica.process.start()
        # Now in the middle of a transaction, now after one.
        if kill % 2:
            wait_until("a batch is stored", lambda before=before: rig.database.count() > before)
        wait_until("a batch is being stored", lambda: rig.database.query(busy), last_seen=replica.process.tail)
        replica.process.stop(signal.SIGKILL)
    assert rig.database.count() < total, "it was the middle"
    rig.database.query("DROP TRIGGER slow ON predictions")
    replica.process.start()
    rig.wait_until_stored(total)
    rows = rig.rows()
    assert set(rows) == {answer.request_id for answer in answered(load)}
    assert max(rows.values()) == 1
    wait_until("the spool is empty", lambda: numbers(replica)["spool_bytes"] < 512 * 1024)
    assert lost(replica) == 0
    if kills > 3:
        measured(
            "sigkill",
            f"a replica killed {kills} times in mid-replay after an outage of PostgreSQL: predictions recorded",
            f"{total} answered, {total} stored once, 0 lost",
            "make soak",
        )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=SOAK)])
def test_a_replica_killed_under_load_loses_at_most_the_last_second_of_its_predictions(rig: Rig, kills: int) -> None:
    replica = rig.start()
    gone = total = 0
    for kill in range(kills):
        if kill:
            replica.process.start()
            wait_until("the replica is ready", replica.ready, last_seen=replica.process.tail)
            rig.database.query("DELETE FROM predictions")  # the first replica has made the table by then
        with rig.load() as load:
            wait_until("load is on", lambda load=load: len(load.answers) > 250)
            killed = time.monotonic()
            replica.process.stop(signal.SIGKILL)
        replica.process.start()  # what the spool has is stored by the next start
        wait_until("the replica is ready", replica.ready, last_seen=replica.process.tail)
        wait_until(
            "the spool is empty", lambda: (said := numbers(replica))["database_up"] == 1 and said["spool_bytes"] == 0
        )
        gone += check_after_a_kill(rig, load, killed)
        total += len(answered(load))
        replica.process.stop()
    if kills > 2:
        measured(
            "sigkill",
            f"a replica killed {kills} times under 100 requests/s: predictions recorded",
            f"{total} answered, {total - gone} stored once, {gone} of the last second before the kills lost",
            "make soak",
        )


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("times", [5, pytest.param(100, marks=SOAK)])
def test_a_replica_stopped_under_load_answers_what_it_admitted_and_records_it(rig: Rig, times: int) -> None:
    replica = rig.start()
    total = 0
    for turn in range(times):
        if turn:
            replica.process.start()
            wait_until("the replica is ready", replica.ready, last_seen=replica.process.tail)
        rig.database.query("DELETE FROM predictions" if turn else "SELECT 1")
        with rig.load() as load:
            wait_until("load is on", lambda load=load: len(load.answers) > 60)
            code = replica.process.stop(signal.SIGTERM)
        assert code == 0, replica.process.tail()
        not_admitted = [answer for answer in load.lost if "ConnectionRefusedError" in answer.error]
        assert [answer for answer in load.lost if answer not in not_admitted] == []
        expected = [answer.request_id for answer in answered(load)]
        assert sorted(rig.rows().elements()) == sorted(expected), "in the database when the process has ended"
        total += len(expected)
    if times > 5:
        measured(
            "nothing-lost",
            f"SIGTERM {times} times under 100 requests/s, one replica",
            f"{total} requests admitted, all answered, all recorded once",
            "make soak",
        )
