"""What holds with Compose as well as on a Swarm, checked and measured."""

from __future__ import annotations

import time
from collections.abc import Callable

from deployments import Deployment
from windlass_lab.testing.waiting import until

from windlass_testing.evidence import measured


def swaps(deployment: Deployment, replicas: int, count: int, where: str) -> None:
    """Rolls `count` new versions out under load, each packed only then: nothing is lost, all change over together."""
    first = int(deployment.answer()) + 1
    versions = range(first, first + count)
    before = set(deployment.containers("server"))
    with deployment.load() as load, deployment.observed() as observed:
        for version in versions:
            deployment.serve(version)
    differed = [observed.differed(version) for version in versions]
    assert load.lost == []
    assert load.wrong == []
    assert load.steps_back() == []
    assert {answer.version for answer in load.answers} >= {str(version) for version in versions}
    assert set(deployment.containers("server")) == before
    assert len({answer.instance for answer in load.answers}) == replicas, "none was restarted"
    assert all(len(observed.answered_with(version)) == replicas for version in versions)
    assert max(differed) < 1.0, differed
    command = "make e2e" if count < 50 else "make soak"
    measured(
        "nothing-lost",
        f"{where}: {count} swaps under constant load through nginx, each version new",
        f"{len(load.lost)} of {len(load.answers)} requests lost, {len(load.steps_back())} steps back",
        command,
    )
    measured(
        "rollback",
        f"{where}, each asked by its address every 20 ms: how long they differed in {count} swaps",
        f"at most {max(differed) * 1000:.0f} ms",
        command,
    )


def a_minute_without_database(
    deployment: Deployment, replicas: int, stop: Callable[[], None], start: Callable[[], None], where: str
) -> None:
    """PostgreSQL goes and comes back under load: nothing fails, every prediction is a row, once."""
    with deployment.load(20) as load:
        stop()
        until("it is gone", lambda: not deployment.containers("postgres"))
        gone = time.monotonic()
        until("a minute is over", lambda: time.monotonic() - gone > 60, 120)
        assert deployment.health("server") == ["healthy"] * replicas
        start()
        until("it is back", lambda: deployment.health("postgres") == ["healthy"])
    assert load.lost == []
    answered = {answer.request_id for answer in load.answers}

    def ask(query: str) -> list[str]:
        options = ("--username=windlass", "--no-psqlrc", "--tuples-only", "--no-align")
        return deployment.execute("postgres", "psql", *options, "--command", query).split("\n")[:-1]

    until(
        "every prediction is in the database",
        lambda: answered <= set(ask("SELECT request_id FROM predictions")),
        120,
    )
    rows, distinct = ask("SELECT count(*) || ' ' || count(DISTINCT request_id) FROM predictions")[0].split()
    assert rows == distinct, "none is there twice"
    measured(
        "nothing-lost",
        f"{where}: PostgreSQL away for a minute under constant load",
        f"{len(load.lost)} of {len(load.answers)} requests and 0 of {len(answered)} rows lost",
        "make soak",
    )
