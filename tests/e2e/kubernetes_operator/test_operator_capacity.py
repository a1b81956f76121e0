"""What one operator costs with many servers: memory, CPU while nothing changes, requests for a rollout."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from patience import wait_until

from windlass_testing.evidence import measured
from windlass_testing.following import Replica

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.timeout(900)]

SERVERS, REPLICAS_EACH, VERSIONS_EACH = 20, 5, 5
MAX_MIB = 128
MAX_IDLE_CPU = 0.01
IDLE_SECONDS = 60
SQUARES = "total = 0\nfor each in range(number): total += each * each"
USUAL_SECONDS = 0.32
"""Of a usual core for five million squares."""
ROLLOUT = {"keepPrevious": "20s"}
"""Long enough to be seen, short enough to be waited for: until it ends there is something to do."""
MAX_REQUESTS = {"configmaps": 5, "modelversions/status": 3 * (VERSIONS_EACH + 1), "events": 5}
"""Writes for one rollout, by resource: plan and record, the statuses of the server's ModelVersions, what is told."""


def peak_mib(pid: int) -> float:
    """The most memory that a process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kib / 1024


def cpu_seconds(pid: int) -> float:
    """Of all its threads, since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Idle(NamedTuple):
    """The share of one core that a process uses while nothing is asked of it."""

    here: float
    usual: float
    """Of a core as figures are given for: how fast this one is, with what else it has to do, is measured meanwhile."""

    def __str__(self) -> str:
        return f"{self.usual:.2%} ({self.here:.2%} of this machine's)"


def idle_of(pid: int, seconds: float) -> Idle:
    """Measures it."""
    pieces = 10
    began, used, work = time.monotonic(), cpu_seconds(pid), 0.0
    for _ in range(pieces):
        time.sleep(seconds / pieces)  # what is measured is time that passes
        work += seconds_of_work(5_000_000 // pieces)
    here = (cpu_seconds(pid) - used) / (time.monotonic() - began)
    return Idle(here, here * USUAL_SECONDS / work)


def seconds_of_work(squares: int) -> float:
    """Of this thread, to add up so many squares."""
    began = time.thread_time()
    exec(SQUARES, {"number": squares})
    return time.thread_time() - began


def written(operator: Any) -> Callable[[], dict[str, float]]:
    """Counts writes by resource from now on."""

    def count() -> dict[str, float]:
        return {
            resource: sum(
                operator.metric(
                    f'windlass_operator_api_requests_total{{code="{code}",resource="{resource}",verb="{verb}"'
                )
                for verb in ("POST", "PUT", "PATCH")
                for code in (200, 201, 409)
            )
            for resource in MAX_REQUESTS
        }

    before = count()
    return lambda: {resource: value - before[resource] for resource, value in count().items()}


def test_a_hundred_replicas_of_twenty_servers_cost_little(stage) -> None:
    operator = stage.operator()
    wait_until(lambda: operator.acting, stage.seen)
    url = operator.url
    alone = idle_of(operator.process.pid, IDLE_SECONDS / 2)
    servers = [f"s{number}" for number in range(SERVERS)]
    pods = [(f"{server}-{number}", server) for server in servers for number in range(REPLICAS_EACH)]
    spec = {"schedulerName": "nobody", "containers": [{"name": "server", "image": "none"}]}
    objects = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"windlass.dev/server": server}},
            "spec": spec,
        }
        for name, server in pods
    ]
    stage.namespace.kubectl(
        "apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    )
    with ThreadPoolExecutor(4) as pool:
        tokens = list(pool.map(lambda pod: stage.token(pod[0]), pods))
    trusted = wait_until(lambda: ca(stage))
    for (name, server), token in zip(pods, tokens, strict=True):
        stage.replicas[name] = Replica(
            name, lambda: url, lambda token=token: token, server, lambda: trusted, report_seconds=1.0
        )
    wait_until(lambda: operator.metric("windlass_operator_subscribed_replicas") == len(pods), stage.seen)
    versions = [
        stage.model_version(f"{server}-{version}", version, server=server, rollout=ROLLOUT)
        for server in servers
        for version in range(1, VERSIONS_EACH + 1)
    ]
    stage.namespace.kubectl(
        "apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": versions})
    )

    def all_serve(version: int, *names: str) -> bool:
        return all(
            stage.replicas[f"{name}-{n}"].committed[-1:] == [version] for name in names for n in range(REPLICAS_EACH)
        )

    wait_until(lambda: all_serve(VERSIONS_EACH, *servers), stage.seen)
    wait_until(lambda: phases(stage).count("Serving") == SERVERS, stage.seen)

    writes = written(operator)
    stage.apply("s0-6", VERSIONS_EACH + 1, server="s0", rollout=ROLLOUT)
    wait_until(lambda: all_serve(VERSIONS_EACH + 1, "s0"), stage.seen)
    wait_until(lambda: stage.status("s0-6").get("phase") == "Serving", stage.seen)
    wait_until(lambda: stage.status("s0-5").get("phase") == "Previous", stage.seen)
    requests = writes()
    wait_until(lambda: "Previous" not in phases(stage), stage.seen)
    idle = idle_of(operator.process.pid, IDLE_SECONDS)
    mib = peak_mib(operator.process.pid)
    figure = (
        f"{mib:.0f} MiB at most; {alone} of a core without servers, {idle} with all of them subscribed and "
        f"nothing to do; writes for one rollout: {', '.join(f'{n:.0f} {kind}' for kind, n in requests.items())}"
    )
    measured(
        "operator-cost", f"{len(versions)} ModelVersions, {SERVERS} servers, {len(pods)} replicas", figure, "make soak"
    )
    assert mib <= MAX_MIB, figure
    assert all(count <= MAX_REQUESTS[kind] for kind, count in requests.items()), figure
    assert idle.usual < MAX_IDLE_CPU, figure


def phases(stage: Any) -> list[str]:
    """Of all ModelVersions."""
    return [value.get("status", {}).get("phase", "") for value in stage.namespace.all_of("modelversions")]


def ca(stage: Any) -> ssl.SSLContext | None:
    """What replicas trust, once it is there."""
    with contextlib.suppress(OSError):
        return stage.trusted()
    return None
