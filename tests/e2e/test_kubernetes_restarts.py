"""Mode Restart: new Pods bring a version, one at a time as the Deployment says; both versions answer meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster_rig import REPLICAS, Server, constant_load
from windlass_lab.fixtures import COLLECTORS
from windlass_lab.testing.waiting import until

from windlass_testing.evidence import measured
from windlass_testing.models import affine_tflite

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

FEW = 2
ROLLOUTS = 5
RESTART = {"rollout": {"mode": "Restart"}}


@pytest.fixture(scope="module")
def server(five_replicas: Server) -> Iterator[Server]:
    """A few replicas that serve: each is started anew by each rollout."""
    five_replicas.scale(FEW)
    yield five_replicas
    five_replicas.scale(REPLICAS)


@pytest.fixture(autouse=True)
def _kept_on_failure(server: Server, request: pytest.FixtureRequest) -> None:
    request.node.stash.setdefault(COLLECTORS, []).append(server.space.evidence)


def pods(server: Server) -> set[str]:
    """The replicas that aren't on their way out."""
    return {pod["metadata"]["uid"] for pod in server.pods() if "deletionTimestamp" not in pod["metadata"]}


def revision(server: Server) -> str:
    """Of the Pod template."""
    template = server.space.get("deployment", server.name)["spec"]["template"]
    found: str = template["metadata"].get("annotations", {}).get("windlass.dev/revision", "")
    return found


def test_five_rollouts_by_restart_lose_no_request(server: Server) -> None:
    with constant_load(server) as load:
        for _ in range(ROLLOUTS):
            before = pods(server)
            version = server.roll(**RESTART)
            server.wait_for(version, "Serving", 180)
            server.wait_ready(FEW)
            assert not before & pods(server), "a Pod was not started anew"
            assert set(server.answers().values()) == {str(version)}
    assert load.lost == []
    assert load.wrong == []
    assert load.steps_back() == []
    assert set(server.restarts().values()) == {0}
    measured(
        "nothing-lost",
        f"{ROLLOUTS} rollouts in mode Restart on a kind cluster, {FEW} replicas, constant load through the Service",
        f"0 of {len(load.answers)} requests lost, every Pod started anew each time, one at a time",
        "make e2e",
    )


def test_a_bad_version_takes_the_template_back_and_never_answers(server: Server) -> None:
    good, before = server.committed(), revision(server)
    old = pods(server)
    with constant_load(server) as load:
        version = good + 1
        folder = affine_tflite(server.models, server.model, version, version, version, signatures=False)
        assert folder.is_dir()
        server.space.apply(server.version(version, **RESTART))
        server.wait_for(version, "Quarantined", 120)
        until("the template is back", lambda: revision(server) == before)
        server.wait_ready(FEW)
    assert old == pods(server), "the Deployment's surge alone was tried"
    assert load.lost == []
    assert load.wrong == []
    assert {answer.version for answer in load.answers} == {str(good)}
    assert server.committed() == good
