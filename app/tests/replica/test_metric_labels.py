"""What clients ask for leaves no trace in the metrics: labels are of models and versions that a plan named."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import httpx
from host_rig import Rig, plan, play

from windlass_server.api.app import create_app
from windlass_server.api.bodies import Bodies
from windlass_server.api.envelope import Traffic
from windlass_server.api.json_work import WorkHere
from windlass_server.api.limits import Limits
from windlass_server.connections import Connections
from windlass_server.health import Facts, PlanSource, ReplicaHealth
from windlass_server.metrics import Exposition

REQUESTS = 250
ASK = (
    ("GET", "/v1/models/m/versions/{0}"),
    ("POST", "/v1/models/m/versions/{0}:predict"),
    ("POST", "/v1/models/m/labels/label-{0}:predict"),
    ("POST", "/v1/models/model-{0}:predict"),
    ("GET", "/v2/models/m/versions/{0}/ready"),
    ("POST", "/v2/models/model-{0}/infer"),
    ("POST", "/predict/model-{0}"),
    ("METHOD-{0}", "/somewhere/{0}"),
)


def test_requests_to_names_and_versions_that_nobody_planned_add_no_label():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")
        traffic = Traffic(Bodies(), WorkHere(Limits()))
        health = ReplicaHealth(lambda _: Facts(PlanSource.OPERATOR), lambda: datetime.now(UTC))
        app = create_app(rig.host, instance="i", predictions=None, health=health, traffic=traffic)
        metrics = Exposition(rig.host, traffic, Connections(), None, lambda: True, time.monotonic)

        def series() -> set[str]:
            return {line.rpartition(" ")[0] for line in metrics.text().decode().splitlines() if "windlass_" in line}

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:

            async def ask(number: int) -> None:
                for method, path in ASK:
                    body = {"instances": [1.0]}
                    answer = await client.request(method.format(number), path.format(number), json=body)
                    assert 400 <= answer.status_code < 500, (method, path, answer.text)

            await ask(1_000_000)
            before = series()
            for number in range(REQUESTS):
                await ask(2_000_000 + number)
            assert series() == before

    play(scenario)


def test_what_a_version_was_given_of_the_machine_is_told_as_long_as_it_is_prepared():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        metrics = Exposition(
            rig.host, Traffic(Bodies(), WorkHere(Limits())), Connections(), None, lambda: True, time.monotonic
        )
        chosen = (
            'windlass_version_max_batch_size{model="m",version="1"} 4.0',
            'windlass_version_slice_rows{model="m",version="1"} 8.0',
            'windlass_version_frozen{model="m",version="1"} 1.0',
            'windlass_version_threads{model="m",version="1"} 2.0',
        )
        assert not any(line in metrics.text().decode().splitlines() for line in chosen)
        await rig.ends("m/1")
        assert all(line in metrics.text().decode().splitlines() for line in chosen)

    play(scenario)
