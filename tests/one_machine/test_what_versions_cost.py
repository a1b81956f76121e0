"""What a replica and its versions cost: time to begin with, and memory.

Time means something only where nothing else runs, so these run alone.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from windlass_contract.artifact import read_manifest
from windlass_testing.evidence import measured
from windlass_testing.models import affine_tflite, affine_v1, network
from windlass_testing.one_machine import OneMachine, Replica, one_machine, wait_until
from windlass_testing.process_tree import pss

MB = 10**6
TIMES = 3
COMMAND = "WINDLASS_EVIDENCE=1 make test-alone"

pytestmark = [pytest.mark.hardening, pytest.mark.alone, pytest.mark.evidence]

Make = Callable[[Path, str, int], object]


def litert(models: Path, model: str, version: int) -> None:
    affine_tflite(models, model, version, 2.0, 1.0)


def tensorflow(models: Path, model: str, version: int) -> None:
    affine_v1(models, model, version, 2.0, 1.0)


def started(machine: OneMachine) -> tuple[Replica, float]:
    """A replica that follows nobody, and the seconds until it was ready."""
    begun = time.monotonic()
    replica = machine.add_replica(f"replica-{len(machine.replicas) + 1}", managed=False)
    wait_until("it is ready", replica.ready, 120, replica.process.tail)
    return replica, time.monotonic() - begun


def all_ready(replica: Replica, names: Sequence[str]) -> bool:
    return all(replica.get(f"/v2/models/{name}/ready").status_code == 200 for name in names)


def prepared(replica: Replica) -> list[float]:
    """When its versions were, in order. Seconds."""
    lines = [json.loads(line) for line in replica.process.log.read_text().splitlines() if line.startswith("{")]
    times = [line["timestamp"] for line in lines if line["event"] == "version prepared"]
    return sorted(datetime.fromisoformat(each).timestamp() for each in times)


def bytes_of(replica: Replica) -> int:
    """With all that it imports by itself: the prediction log's database is connected to when it is ready already."""
    wait_until("its database is connected", lambda: replica.get("/health").json()["database"] == "ok")
    assert replica.process.popen is not None
    return pss(replica.process.popen.pid)


def seconds_of_import() -> float:
    """That importing TensorFlow takes here, of several times the median."""
    times = []
    for _ in range(TIMES):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", "import tensorflow"], check=True, capture_output=True)
        times.append(time.monotonic() - begun)
    return statistics.median(times)


@pytest.mark.parametrize(("make", "seconds", "megabytes"), [(litert, 1.0, 150), (tensorflow, 3.0, None)])
def test_a_replica_is_soon_there(tmp_path: Path, make: Make, seconds: float, megabytes: int | None) -> None:
    machine = OneMachine(tmp_path)
    make(machine.models, "m", 1)
    try:
        runs = []
        for _ in range(1 + TIMES):  # the first one finds nothing in the page cache
            replica, took = started(machine)
            size = bytes_of(replica)
            replica.process.stop()
            runs.append((took, size))
    finally:
        machine.stop()
    took = statistics.median(each for each, _ in runs[1:])
    size = statistics.median(each for _, each in runs[1:])
    imported = seconds_of_import() if make is tensorflow else 0.0
    besides = f", of which importing TensorFlow takes {imported:.2f} s" if imported else ""
    measured(
        "start",
        f"{make.__name__}: a replica with one small model, warm page cache, median of {TIMES}",
        f"ready after {took:.2f} s{besides}; {size / MB:.0f} MB (PSS of all its processes)",
        COMMAND,
    )
    assert took - imported <= seconds
    assert megabytes is None or size <= megabytes * MB


def test_a_second_version_of_a_tensorflow_model_costs_little_beside_its_weights(tmp_path: Path) -> None:
    with one_machine(tmp_path) as machine:
        replica = machine.replicas["replica-1"]
        sizes = []
        for version in (1, 2):
            folder = network(machine.models, "m", version, version)
            digest = read_manifest(folder).digest
            machine.wait_until_ready(machine.apply(machine.document("m", version, digest)), 120)
            image = np.zeros((96, 96, 3), int).tolist()
            for _ in range(TIMES):
                assert replica.predict("m", [image]).status_code == 200
            sizes.append(bytes_of(replica))
        weights = sum(path.stat().st_size for path in (folder / "variables").iterdir())
    more = sizes[1] - sizes[0]
    measured(
        "version-cost",
        "a second resident version of MobileNetV2 as a SavedModel",
        f"{more / MB:.0f} MB more, its weights have {weights / MB:.0f} MB (PSS)",
        COMMAND,
    )
    assert more - weights <= 150 * MB


@pytest.mark.timeout(600)
@pytest.mark.parametrize("make", [litert, tensorflow])
def test_fifty_small_models_cost_fifty_times_one(tmp_path: Path, make: Make) -> None:
    seconds: dict[int, float] = {}
    sizes: dict[int, int] = {}
    for count in (1, 10, 50):
        machine = OneMachine(tmp_path / str(count))
        names = [f"m{number}" for number in range(count)]
        for name in names:
            make(machine.models, name, 1)
        try:
            replica, _ = started(machine)
            wait_until("all are ready", partial(all_ready, replica, names), 300, replica.process.tail)
            times = prepared(replica)
            sizes[count] = bytes_of(replica)
        finally:
            machine.stop()
        assert len(times) == count
        seconds[count] = (times[-1] - times[0]) / max(count - 1, 1)
    first, next_ = (sizes[10] - sizes[1]) / 9, (sizes[50] - sizes[10]) / 40
    measured(
        "version-cost",
        f"{make.__name__}: 50 small models in one replica",
        f"{sizes[50] / MB:.0f} MB (PSS), {next_ / MB:.1f} MB for each beyond the tenth and {first / MB:.1f} MB for "
        f"each before; one is prepared {seconds[50] * 1000:.0f} ms after the other, where there are ten "
        f"{seconds[10] * 1000:.0f} ms",
        COMMAND,
    )
    assert next_ <= 1.2 * first
    assert seconds[50] <= 1.5 * seconds[10]
