"""Load: wrk for the closed loop (the least overhead there is: C, 1 thread), the tree's own generator for the open one.

Where wrk isn't installed the tree's own generator does the closed loop too; it needs ten times the processor's time, so
results with the one are never compared with results with the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from windlass_testing.one_machine import wait_until
from windlass_testing.open_loop import OpenLoop, Shot, quantile

from .workloads import Message

_SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Loaded:
    """What a stretch of load gave. Times of answers in milliseconds."""

    requests: int
    """Answered with 2xx."""
    errors: int
    """Any other answer, or none."""
    seconds: float
    p50: float
    p90: float
    p99: float
    generator_cpu_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def generator() -> str:
    """What does the closed loop here."""
    if shutil.which("wrk") is None:
        return "windlass_testing.open_loop"
    shown = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    return (shown.stdout + shown.stderr).split(" [")[0].strip()


def closed_loop(url: str, message: Message, *, connections: int, seconds: float) -> Loaded:
    """Each connection sends when its answer is there. wrk corrects its quantiles for what a stall kept it from sending,
    and takes whole seconds. Raises `RuntimeError`."""
    if shutil.which("wrk") is None:
        return _own(url, message, rate=0, connections=connections, seconds=seconds)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.NamedTemporaryFile() as body:
        body.write(message.body)
        body.flush()
        headers = [part for name, value in message.headers.items() for part in ("-H", f"{name}: {value}")]
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s", "--timeout", "30s"]
        done = subprocess.run(
            [*command, "-s", str(_SCRIPT), *headers, url + message.path],
            capture_output=True, text=True, check=False, timeout=seconds + 120,
            env={**os.environ, "BENCH_BODY": body.name},
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    errors = found["connect"] + found["read"] + found["write"] + found["status"] + found["timeout"]
    return Loaded(
        requests=found["requests"] - found["status"],
        errors=errors,
        seconds=found["microseconds"] / 1e6,
        p50=found["p50"] / 1e3,
        p90=found["p90"] / 1e3,
        p99=found["p99"] / 1e3,
        generator_cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


def open_loop(url: str, message: Message, *, rate: float, connections: int, seconds: float) -> Loaded:
    """Requests are due by a timetable, and an answer's time counts from when its request was due."""
    return _own(url, message, rate=rate, connections=connections, seconds=seconds)


def _own(url: str, message: Message, *, rate: float, connections: int, seconds: float) -> Loaded:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        load = OpenLoop(
            Path(folder), url, message.path, message.body, message.headers,
            rate=rate, connections=connections, spread=True,
        )  # fmt: skip
        with contextlib.suppress(subprocess.TimeoutExpired), load:  # what isn't answered in a minute counts as unsent
            wait_until("the load generator has an answer", load.shots)
            begin = time.monotonic()
            time.sleep(seconds)  # the load itself: it goes on this long
            end = time.monotonic()
        shots = [shot for shot in load.shots() if begin <= shot.due < end]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return summary(shots, begin, end, rate=rate, generator_cpu_seconds=used)


def summary(shots: list[Shot], begin: float, end: float, *, rate: float, generator_cpu_seconds: float) -> Loaded:
    """Of what was due in a stretch. What a timetable had due and was never sent is an error that took until the end."""
    unsent = max(0, int(rate * (end - begin)) - len(shots)) if rate else 0
    latencies = [shot.latency * 1e3 for shot in shots] + [(end - begin) * 1e3] * unsent
    good = sum(not shot.lost for shot in shots)
    p50, p90, p99 = (quantile(latencies, share) if latencies else 0.0 for share in (0.5, 0.9, 0.99))
    return Loaded(good, len(shots) - good + unsent, end - begin, p50, p90, p99, generator_cpu_seconds)
