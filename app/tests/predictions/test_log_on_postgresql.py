"""A replica under load whose PostgreSQL goes away, loses connections or is slow, and whose disk is full: each
prediction that a client got is in the database once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from windlass_testing.evidence import measured
from windlass_testing.one_machine import wait_until
from windlass_testing.postgres import CuttingProxy, missing
from windlass_testing.recording import Rig, answered, assert_each_once, lost, numbers

pytestmark = pytest.mark.hardening

SOAK = pytest.mark.soak
RETRY_SECONDS = 15.0
"""The longest pause before a database that was away is asked again."""


def for_a_while(rig: Rig, seconds: float, what: str = "") -> None:
    """Lets the load go on."""
    end = time.monotonic() + seconds
    wait_until(f"{seconds} s have passed {what}", lambda: time.monotonic() > end, seconds + 10)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("at_once", [False, True], ids=["stopped", "crashed"])
@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=SOAK)])
def test_postgresql_away_for_a_while_under_load_loses_and_doubles_nothing(
    rig: Rig, seconds: float, at_once: bool
) -> None:
    replica = rig.start()
    with rig.load() as load:
        rig.wait_until_stored(100)
        rig.server.stop(at_once=at_once)
        for_a_while(rig, seconds, "without a database")
        assert replica.get("/readyz").status_code == 200, "a lost database doesn't unready"
        health = replica.get("/health").json()
        rig.server.start()
        rig.wait_until_stored(int(numbers(replica)["recorded"]))
    assert health["database"] == "unavailable"
    count = assert_each_once(rig, load)
    said = numbers(replica)
    assert said["replayed"] >= seconds * 20
    assert said["recorded"] == said["spooled"] == said["stored"] == count
    assert lost(replica) == 0
    assert said["spool_bytes"] < 512 * 1024
    assert said["database_up"] == 1
    if seconds > 5:
        measured(
            "nothing-lost",
            f"PostgreSQL {'crashed' if at_once else 'stopped'} for {seconds} s under 100 requests/s: "
            "predictions recorded",
            f"{count} answered, {count} stored once, 0 lost",
            "make soak",
        )


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seconds", [5, pytest.param(120, marks=SOAK)])
def test_connections_terminated_again_and_again_lose_and_double_nothing(rig: Rig, seconds: float) -> None:
    replica = rig.start()
    cut = 0
    with rig.load() as load:
        rig.wait_until_stored(1)
        end = time.monotonic() + seconds
        while time.monotonic() < end or not cut:
            cut += rig.server.cut()
            for_a_while(rig, 0.03)
    count = assert_each_once(rig, load)
    assert cut > 2
    assert lost(replica) == 0
    assert numbers(replica)["recorded"] == count
    if seconds > 5:
        measured(
            "nothing-lost",
            f"connections to PostgreSQL terminated again and again for {seconds} s under 100 requests/s: "
            "predictions recorded",
            f"{cut} connections cut, {count} answered, {count} stored once, 0 lost",
            "make soak",
        )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cuts", [4, pytest.param(40, marks=SOAK)])
def test_connections_cut_right_after_a_commit_double_nothing(rig: Rig, cuts: int) -> None:
    proxy = CuttingProxy(rig.server.port, cuts)
    replica = rig.start(through=proxy.port)
    with rig.load(50) as load:
        wait_until("all cuts are made", lambda: proxy.cut == cuts, cuts * (RETRY_SECONDS + 5), replica.process.tail)
    count = assert_each_once(rig, load)
    wait_until(
        "the replica knows of all",
        lambda: numbers(replica)["stored"] == count,
        last_seen=lambda: (count, numbers(replica)),
    )
    assert lost(replica) == 0
    proxy.close()
    if cuts > 4:
        measured(
            "nothing-lost",
            f"connection to PostgreSQL cut {cuts} times right after a commit under 50 requests/s: predictions recorded",
            f"{count} answered, {count} stored once, 0 lost",
            "make soak",
        )


def tiny_disk(folder: Path, size: str) -> list[str]:
    """A command that runs another with a small disk of its own, a real tmpfs, at this folder."""
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", "--mount", *rights]
    tried = subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True)
    if tried.returncode != 0:
        missing(
            f"no file system can be mounted in a namespace of its own ({tried.stderr.strip()})",
            "run as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1; in a container, "
            "--cap-add SYS_ADMIN)",
        )
    mount = f'mount -t tmpfs -o size={size},mode=700 tmpfs "$0" && exec "$@"'
    return [*unshare, "sh", "-c", mount, str(folder)]


@pytest.mark.timeout(400)
def test_with_the_spools_disk_full_and_no_database_predictions_wait_in_memory(rig: Rig) -> None:
    replica = rig.start(inside=tiny_disk(rig.state(), "128k"))
    with rig.load() as load:
        rig.wait_until_stored(50)
        rig.server.stop()
        wait_until(
            "the disk is full", lambda: "can't be written" in replica.process.log.read_text(), 120, replica.process.tail
        )
        for_a_while(rig, 3, "with a full disk")
        assert replica.get("/readyz").status_code == 200
        said = numbers(replica)
        assert said["recorded"] > said["spooled"], "some are only in memory"
        assert said["spool_bytes"] <= 128 * 1024
        rig.server.start()
        rig.wait_until_stored(int(said["recorded"]))
    assert_each_once(rig, load)
    assert lost(replica) == 0


@SOAK
@pytest.mark.timeout(1200)
def test_more_than_disk_and_memory_hold_is_lost_and_counted(rig: Rig) -> None:
    replica = rig.start(inside=tiny_disk(rig.state(), "128k"))
    with rig.load(200) as load:
        rig.wait_until_stored(50)
        rig.server.stop()
        wait_until("some are lost", lambda: numbers(replica)["lost:disk"] > 1000, 600, lambda: numbers(replica))
        rig.server.start()
        wait_until("the database is back", lambda: numbers(replica)["database_up"] == 1)
    assert load.lost == []
    sent = {answer.request_id for answer in answered(load)}
    said = wait_until(
        "all that is left is stored",
        lambda: (said := numbers(replica))["stored"] + said["lost:disk"] == len(sent) and said,
        last_seen=lambda: (len(sent), numbers(replica)),
    )
    rows = rig.rows()
    assert set(rows) <= sent
    assert max(rows.values()) == 1
    assert len(rows) == said["stored"]
    assert lost(replica) == said["lost:disk"]
    measured(
        "nothing-lost",
        "PostgreSQL away and the spool's disk full, until the memory's bound was reached: predictions recorded",
        f"{len(sent)} answered, {len(rows)} stored once, {said['lost:disk']:.0f} lost and counted",
        "make soak",
    )


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=SOAK)])
def test_two_replicas_share_one_database_through_an_outage(rig: Rig, seconds: float) -> None:
    # Both find an empty database: one of them migrates it.
    first, second = rig.start(ready=False), rig.start(name="r2", ready=False)
    for replica in (first, second):
        wait_until(f"{replica.name} is ready", replica.ready, last_seen=replica.process.tail)
    with rig.load(60, first) as one, rig.load(60, second) as two:
        rig.wait_until_stored(60)
        rig.server.stop()
        for_a_while(rig, seconds, "without a database")
        rig.server.start()
    assert_each_once(rig, one, two)
    assert lost(first) == lost(second) == 0


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_a_sample_holds_its_share_and_counts_the_rest(rig: Rig, share: float) -> None:
    replica = rig.start("--predictions-sample", str(share))
    with rig.load(200) as load:
        wait_until("enough is answered", lambda: len(load.answers) > 1200)
    assert load.lost == []
    total = len(answered(load))
    said = numbers(replica)
    assert said["recorded"] + said["sampled_out"] == total
    rig.wait_until_stored(int(said["recorded"]))
    rows = rig.rows()
    assert set(rows) <= {answer.request_id for answer in load.answers}
    assert rows.total() == len(rows) == said["recorded"]
    # Five standard deviations of a fair draw: wrong once in two million runs.
    assert abs(len(rows) - share * total) < 5 * (total * share * (1 - share)) ** 0.5


FILL = """
INSERT INTO predictions SELECT prefix || n, now() - age, 'm', 1, repeat('d', 71), 1, 'v1', 'serving_default', 0.001,
200, NULL, NULL, prefix || n FROM generate_series(1, %s) n, (SELECT %s::text AS prefix, %s::interval AS age) given
"""


def test_what_is_too_old_and_what_is_too_much_goes_oldest_first_and_counted(rig: Rig) -> None:
    rig.start(name="r0").process.stop()  # makes the table
    rig.database.query(FILL, 1000, "too old ", "3 days")
    rig.database.query(FILL, 6000, "older ", "2 hours")
    rig.database.query(FILL, 1000, "newer ", "1 hour")
    replica = rig.start("--predictions-max-bytes", str(1024 * 1024), "--predictions-max-days", "1")
    wait_until("the bounds are kept", lambda: numbers(replica)["expired"] > 4000, last_seen=lambda: numbers(replica))

    def settled() -> bool:
        before = numbers(replica)["expired"]
        for_a_while(rig, 1)
        return numbers(replica)["expired"] == before

    wait_until("no more goes", settled)
    with rig.load() as load:
        wait_until("some are answered", lambda: len(load.answers) > 100)
    rig.wait_until_stored(rig.database.count())
    kept = dict(
        rig.database.query("SELECT substring(request_id FROM '^[a-z ]+ '), count(*)::int FROM predictions GROUP BY 1")
    )
    assert "too old " not in kept
    assert kept["newer "] == 1000
    assert 0 < kept["older "] < 3000
    said = numbers(replica)
    assert said["expired"] == 8000 - kept["newer "] - kept["older "]
    wait_until("new ones are there", lambda: {answer.request_id for answer in answered(load)} <= set(rig.rows()))


@SOAK
@pytest.mark.timeout(1200)
def test_a_spool_beyond_its_bound_gives_up_the_oldest_and_counts_them(rig: Rig) -> None:
    replica = rig.start("--predictions-max-bytes", str(1024 * 1024))
    rig.server.stop()
    with rig.load(200) as load:
        wait_until("some are given up", lambda: numbers(replica)["lost:spool"] > 0, 600, lambda: numbers(replica))
    said = wait_until("all is on disk", lambda: (said := numbers(replica))["spooled"] == len(answered(load)) and said)
    assert said["spool_bytes"] <= 1024 * 1024
    replica.process.stop()  # with the database away: what is left stays on disk
    rig.server.start()
    replica = rig.start("--predictions-max-bytes", str(64 * 1024 * 1024))
    wait_until("the spool is empty", lambda: numbers(replica)["spool_bytes"] == 0)
    rows = rig.rows()
    by_time = [answer.request_id for answer in sorted(answered(load), key=lambda answer: answer.done)]
    assert max(rows.values()) == 1
    missing_ids = [request_id for request_id in by_time if request_id not in rows]
    assert len(missing_ids) == said["lost:spool"]
    # The oldest: but for those answered side by side, nothing newer than what is kept is missing.
    assert set(missing_ids) <= set(by_time[: len(missing_ids) + 16])


def test_replicas_may_have_a_role_that_can_only_read_add_and_delete(rig: Rig) -> None:
    command = [sys.executable, "-m", "windlass_server.predictions", "upgrade"]
    url = ["--predictions-file", str(rig.database.url_file(rig.folder))]
    assert subprocess.run([*command, *url], capture_output=True, text=True).stderr == ""
    # The tables are somebody else's from now on, and so is the schema.
    for statement in (
        "ALTER TABLE predictions OWNER TO postgres",
        "ALTER TABLE alembic_version OWNER TO postgres",
        f"ALTER DATABASE {rig.database.name} OWNER TO postgres",
        "GRANT SELECT, INSERT, DELETE ON predictions TO windlass",
        "GRANT SELECT ON alembic_version TO windlass",
    ):
        rig.database.query(statement)
    replica = rig.start("--predictions-max-days", "0.0001")
    with rig.load() as load:
        wait_until("load is on", lambda: len(load.answers) > 50)
    assert_each_once(rig, load)
    assert numbers(replica)["database_up"] == 1
    replica.process.stop()
    for_a_while(rig, 10)  # longer than they are kept
    replica.process.start()
    wait_until("they are deleted", lambda: rig.database.count() == 0, last_seen=replica.process.tail)
