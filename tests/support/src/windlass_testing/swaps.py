"""Swaps between two real TensorFlow models in a replica under load, measured one by one."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from windlass_contract.artifact import read_manifest

from .models import network
from .one_machine import OneMachine, Replica, one_machine, wait_until
from .open_loop import OpenLoop, Shot, quantile
from .process_tree import pss, tree

MODEL = "network"
CAPACITY_SECONDS = 5.0
CAPACITY_CONNECTIONS = 8
CONNECTIONS = 64
"""More than ever wait: the load must not be held up by its own."""
_SETTLE_SECONDS = 0.5
"""After load begins anew."""
_KEPT = 4
"""Newest versions whose files and ModelVersions stay."""


@dataclass(frozen=True)
class Swap:
    """One swap and the time just before it. Seconds and bytes."""

    number: int
    seconds: float
    """From the ModelVersion's file to the new version serving: the load window. The one before is as long."""
    before: tuple[float, float]
    """Median and 99th percentile of the latency in the window before."""
    beside: tuple[float, float]
    """The same in the load window."""
    memory: int
    """Afterwards, idle, with one version resident; see `memory`."""

    @property
    def ratio(self) -> float:
        """By how much the 99th percentile grew."""
        return self.beside[1] / self.before[1]

    def __str__(self) -> str:
        return (
            f"swap {self.number}: {self.seconds:.2f} s, p99 {self.before[1] * 1000:.1f} -> "
            f"{self.beside[1] * 1000:.1f} ms ({self.ratio:.2f}), p50 {self.before[0] * 1000:.1f} -> "
            f"{self.beside[0] * 1000:.1f} ms, {self.memory / 2**20:.1f} MiB"
        )


def request() -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers of a prediction: one image as the Open Inference Protocol sends it."""
    image = np.random.default_rng(0).integers(0, 255, (1, 96, 96, 3), np.uint8).tobytes()
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1, 96, 96, 3]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(image)}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return f"/v2/models/{MODEL}/infer", head + image, headers


class Swapping:
    """One operator, one replica, of which version v is the one or the other of two models by turns."""

    def __init__(self, machine: OneMachine, replica: Replica) -> None:
        self.machine = machine
        self.replica = replica
        self._version = 0
        self._window = 0.0

    def first(self) -> None:
        """Rolls the first version out."""
        self._window = self._roll(self._pack())

    def capacity(self) -> float:
        """Answers per second, closed loop."""
        with self.load(0, CAPACITY_CONNECTIONS) as load:
            begin = wait_until("it is warm", lambda: len(load.shots()) > 200 and load.shots()[-1].done)
            wait_until("enough is answered", lambda: load.shots()[-1].done > begin + CAPACITY_SECONDS)
        shots = [shot for shot in load.shots() if shot.done > begin]
        return len(shots) / (shots[-1].done - begin)

    def load(self, rate: float, connections: int = CONNECTIONS) -> OpenLoop:
        """Predictions; see `OpenLoop`."""
        return OpenLoop(self.machine.folder, self.replica.url, *request(), rate=rate, connections=connections)

    def swaps(self, load: OpenLoop, count: int) -> Iterator[Swap]:
        """Measures so many; load pauses between them."""
        for number in range(1, count + 1):
            digest = self._pack()
            load.go()
            _let_pass(_SETTLE_SECONDS)
            quiet = time.monotonic()
            _let_pass(self._window)
            began = time.monotonic()
            seconds = self._roll(digest)
            ended = began + seconds
            self._window = seconds
            _let_pass(0.2)
            load.pause()
            wait_until("all is answered", lambda ended=ended: _all_answered(load, ended))
            wait_until("one version is resident", self._alone, 120, self.replica.process.tail)
            yield Swap(
                number,
                seconds,
                _latencies(load.due_between(max(quiet, began - seconds), began)),
                _latencies(load.due_between(began, ended)),
                memory(self._pid),
            )

    def _pack(self) -> str:
        self._version += 1
        self._forget(self._version - _KEPT)
        return read_manifest(network(self.machine.models, MODEL, self._version, self._version % 2)).digest

    def _roll(self, digest: str) -> float:
        document = self.machine.document(MODEL, self._version, digest, rollout={"keepPrevious": "0s"})
        began = time.monotonic()
        name = self.machine.apply(document)
        self.machine.wait_for_phase(name, "Serving", timeout=300)
        return time.monotonic() - began

    @property
    def _pid(self) -> int:
        assert self.replica.process.popen is not None
        return self.replica.process.popen.pid

    def _alone(self) -> bool:
        versions = self.replica.get(f"/v1/models/{MODEL}").json()["model_version_status"]
        available = [each["version"] for each in versions if each["state"] == "AVAILABLE"]
        return available == [str(self._version)] and len(_workers(self._pid)) == 1

    def _forget(self, version: int) -> None:
        if version > 0:
            (self.machine.directory / f"{MODEL}-{version}.yaml").unlink()
            shutil.rmtree(self.machine.models / MODEL / str(version))


@contextmanager
def swapping(folder: Path, within: Sequence[str] = ()) -> Iterator[Swapping]:
    """The first version serves. `within`: what the replica's command runs in."""
    with one_machine(folder, replicas=0) as machine:
        swapping = Swapping(machine, machine.add_replica("replica-1", within=within))
        swapping.first()
        yield swapping


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median with its 95 % interval, by ranks: it supposes nothing of how the values are distributed."""
    ordered = sorted(values)
    count = len(ordered)
    reach = 0.98 * math.sqrt(count)
    low, high = max(0, math.floor(count / 2 - reach)), min(count - 1, math.ceil(count / 2 + reach) - 1)
    return quantile(ordered, 0.5), ordered[low], ordered[high]


def memory(pid: int) -> int:
    """Bytes of a process and all below it, shared pages counted by share, and of /dev/shm. Pages of files aren't
    counted: a share of TensorFlow's libraries depends on who else runs it on the machine, and they can't grow."""
    shared = sum(path.stat().st_blocks * 512 for path in Path("/dev/shm").rglob("*") if path.is_file())
    return shared + pss(pid, "Pss_Anon", "Pss_Shmem")


def _latencies(shots: Sequence[Shot]) -> tuple[float, float]:
    values = [shot.latency for shot in shots]
    return quantile(values, 0.5), quantile(values, 0.99)


def _all_answered(load: OpenLoop, since: float) -> bool:
    """Nothing has come for a while."""
    return load.shots()[-1].done > since and time.monotonic() - load.shots()[-1].done > 0.3


def _let_pass(seconds: float) -> None:
    end = time.monotonic() + seconds
    wait_until(f"{seconds:.1f} s have passed", lambda: time.monotonic() >= end, seconds + 10)


def _workers(pid: int) -> list[int]:
    return [each for each in tree(pid) if Path(f"/proc/{each}/comm").read_text().strip() == "windlass-worker"]
