"""Real replicas that record into a real PostgreSQL."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from windlass_testing.load import Answer, Load, Request
from windlass_testing.one_machine import BIN, Process, Replica, free_port, wait_until
from windlass_testing.postgres import Database, Postgres

REQUEST = Request("/v1/models/m:predict", {"instances": [[1.0]]})


@dataclass
class Rig:
    """Replicas of one small model, each with a state folder of its own, and a database."""

    folder: Path
    database: Database
    replicas: dict[str, Replica] = field(default_factory=dict)

    @property
    def server(self) -> Postgres:
        return self.database.server

    @property
    def replica(self) -> Replica:
        """The first."""
        return next(iter(self.replicas.values()))

    def state(self, name: str = "r1") -> Path:
        return self.folder / "state" / name

    def start(
        self, *extra: str, name: str = "r1", through: int | None = None, inside: Sequence[str] = (), ready: bool = True
    ) -> Replica:
        """Starts a replica. `through`: a port to reach the database by; `inside`: a command to run it with."""
        state, port, metrics_port = self.state(name), free_port(), free_port()
        state.mkdir(parents=True, exist_ok=True)
        process = Process(
            name,
            [
                *inside,
                str(BIN / "windlass-server"),
                *("--replica", name, "--models", str(self.folder / "models"), "--port", str(port)),
                *("--metrics-port", str(metrics_port), "--state-dir", str(state), "--drain-delay", "0.5"),
                *("--predictions-file", str(self.database.url_file(self.folder, through))),
                *extra,
            ],
            self.folder / f"{name}.log",
        )
        replica = Replica(name, process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}")
        self.replicas[name] = replica
        process.start()
        if ready:
            wait_until(f"{name} is ready", replica.ready, last_seen=process.tail)
        return replica

    def load(self, rate: float = 100, replica: Replica | None = None) -> Load:
        return Load((replica or self.replica).url, [REQUEST], rate)

    def wait_until_stored(self, rows: int) -> None:
        """At least so many."""
        wait_until(
            f"{rows} predictions are stored",
            lambda: self.database.count() >= rows,
            120,
            lambda: f"{self.database.count()}\n{self.replica.process.tail()}",
        )

    def rows(self) -> Counter[str]:
        """How often each request id is in the database."""
        return Counter(row[0] for row in self.database.query("SELECT request_id FROM predictions"))

    def stop(self) -> None:
        for replica in self.replicas.values():
            if replica.process.running:
                replica.process.stop()


def numbers(replica: Replica) -> dict[str, float]:
    """The prediction log's metrics, e.g. `stored`, `lost:queue`."""
    text = httpx.get(f"{replica.metrics_url}/metrics", timeout=30).text
    found = re.findall(r'^windlass_predictions_(\w+?)(?:_total)?(?:\{reason="(\w+)"\})? (\S+)$', text, re.MULTILINE)
    return {f"{name}:{reason}" if reason else name: float(value) for name, reason, value in found}


def lost(replica: Replica) -> float:
    """What the replica says it has lost, for whatever reason."""
    return sum(value for name, value in numbers(replica).items() if name.startswith("lost:"))


def answered(*loads: Load) -> list[Answer]:
    """What clients got answers to."""
    answers = [answer for load in loads for answer in load.answers if not answer.lost]
    assert len({answer.request_id for answer in answers}) == len(answers)
    return answers


def assert_each_once(rig: Rig, *loads: Load) -> int:
    """All were answered, and the database has each of them once, and nothing else. Gives how many."""
    for load in loads:
        assert load.lost == []
    expected = Counter(answer.request_id for answer in answered(*loads))
    rig.wait_until_stored(expected.total())
    assert rig.rows() == expected
    return expected.total()
