"""What happens to a server's Pods and nodes, with a rollout under way: it ends right, and loses what it may lose."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from cluster_rig import REPLICAS, Server, constant_load
from windlass_lab.fixtures import COLLECTORS
from windlass_lab.testing.docker import DockerEngine
from windlass_lab.testing.waiting import until

from windlass_testing.evidence import measured
from windlass_testing.pages import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

FEW = 3
"""Replicas here; each that is started anew takes its time."""
PATIENCE = 5
"""Seconds for an answer while a node is lost: nobody resets what was sent there."""
WAITS = {"rollout": {"steps": [{"pause": {}}]}}
"""A rollout that stays in its middle until somebody approves."""


@pytest.fixture(scope="module")
def server(five_replicas: Server) -> Iterator[Server]:
    """A few replicas that serve."""
    five_replicas.scale(FEW)
    yield five_replicas
    five_replicas.scale(REPLICAS)


@pytest.fixture(autouse=True)
def _kept_on_failure(server: Server, request: pytest.FixtureRequest) -> None:
    request.node.stash.setdefault(COLLECTORS, []).append(server.space.evidence)


def approve(server: Server, version: int) -> None:
    """Lets a rollout that waits go on."""
    server.wait_for(version, "Paused")
    name = f"{server.model}-{version}"
    digest = server.status(version)["digest"]
    decision = (
        f'{{"id": "go-{version}", "action": "approve", "server": "{server.name}", "model": "{server.model}", '
        f'"version": {version}, "digest": "{digest}"}}'
    )
    server.space.kubectl("annotate", "modelversion", name, f"decisions.windlass.dev/go-{version}={decision}")


def everybody_serves(server: Server, version: int) -> None:
    """It is committed, and each replica answers with it."""
    server.wait_for(version, "Serving")
    until(
        f"each replica answers with version {version}",
        lambda: set(server.answers().values()) == {str(version)},
    )


def test_scaled_to_zero_a_rollout_waits_and_ends_when_replicas_are_back(server: Server) -> None:
    server.scale(0)
    committed, version = server.committed(), server.roll()

    def waits() -> bool:
        status = server.status(version)
        said = [each for each in status.get("conditions", []) if each["reason"] == "NoReplicas"]
        return bool(said) and "is scaled to 0" in status["message"]

    until("status says what it waits for", waits)
    assert server.committed() == committed
    server.scale(FEW)
    everybody_serves(server, version)


def test_an_image_upgrade_in_mid_rollout_loses_nothing_and_both_end(
    server: Server, docker_engine: DockerEngine
) -> None:
    image = f"docker.io/library/windlass-server:{server.tag}"
    for node in server.space.cluster.lab.state.nodes:
        # The same files under another name: to the kubelet it is another image.
        tag = ("ctr", "--namespace=k8s.io", "images", "tag", "--force", f"{image}-litert", f"{image}-next-litert")
        docker_engine("exec", node, *tag)
    before = {pod["metadata"]["uid"] for pod in server.pods()}
    committed = server.committed()
    with constant_load(server) as load:
        version = server.roll(**WAITS)
        server.wait_for(version, "Paused")
        options = [
            *server.server_options(f"replicas={FEW}", "service.type=NodePort"),
            f"--set=image.tag={server.tag}-next",
        ]
        chart = ROOT / "charts" / "windlass-server"
        server.helm("upgrade", server.name, chart, *options, "--wait", "--timeout=240s")
        assert server.committed() == committed
        approve(server, version)
        everybody_serves(server, version)
    assert load.lost == []
    assert load.wrong == []
    assert load.steps_back() == []
    server.wait_ready(FEW)  # Helm doesn't wait until the old ones have drained
    pods = server.pods()
    assert not {pod["metadata"]["uid"] for pod in pods} & before
    assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {f"windlass-server:{server.tag}-next-litert"}
    measured(
        "nothing-lost",
        f"image upgrade of {FEW} replicas by helm upgrade in mid-rollout on a kind cluster, constant load",
        f"0 of {len(load.answers)} requests lost, the rollout ended on every new Pod",
        "make e2e",
    )


def test_a_node_that_is_drained_in_mid_rollout_loses_nothing(server: Server) -> None:
    cluster = server.space.cluster
    drained = max(cluster.workers, key=[pod["spec"]["nodeName"] for pod in server.pods()].count)
    selector = f"--pod-selector=windlass.dev/server={server.name}"
    with constant_load(server) as load:
        version = server.roll(**WAITS)
        server.wait_for(version, "Paused")
        try:
            arguments = ("--ignore-daemonsets", "--delete-emptydir-data", selector, "--timeout=240s")
            cluster.kubectl("drain", drained, *arguments, timeout=260)
            approve(server, version)
            everybody_serves(server, version)
            server.wait_ready(FEW)
        finally:
            cluster.kubectl("uncordon", drained)
    assert drained not in {pod["spec"]["nodeName"] for pod in server.pods()}
    assert load.lost == []
    assert load.wrong == []
    assert load.steps_back() == []
    measured(
        "nothing-lost",
        f"a node of {FEW} replicas drained in mid-rollout on a kind cluster, constant load",
        f"0 of {len(load.answers)} requests lost, the rollout ended on every replica",
        "make e2e",
    )


def test_without_any_operator_pods_that_start_serve_the_committed_version(server: Server) -> None:
    version = server.committed()
    operator = "deployment/windlass-operator"
    server.space.kubectl("scale", operator, "--replicas=0")
    try:
        selector = "app.kubernetes.io/name=windlass-operator"
        until("there is no operator", lambda: server.space.all_of("pods", selector) == [])
        before = {pod["metadata"]["uid"] for pod in server.pods()}
        # All at once: nobody is left who could tell them.
        server.space.kubectl("delete", "pods", f"--selector=windlass.dev/server={server.name}", "--wait=false")
        until("all Pods are new", lambda: not before & {pod["metadata"]["uid"] for pod in server.pods()})
        server.wait_ready(FEW)
        assert set(server.answers().values()) == {str(version)}
    finally:
        server.space.kubectl("scale", operator, "--replicas=1")
        server.space.kubectl("rollout", "status", operator, "--timeout=60s")
    everybody_serves(server, server.roll())


@pytest.mark.soak
def test_a_rollout_goes_on_when_a_node_is_lost_and_the_node_follows_when_it_is_back(
    server: Server, docker_engine: DockerEngine
) -> None:
    cluster = server.space.cluster
    (operator,) = server.space.all_of("pods", "app.kubernetes.io/name=windlass-operator")
    (lost,) = (node for node in cluster.workers if node != operator["spec"]["nodeName"])
    there = [pod["metadata"]["name"] for pod in server.pods() if pod["spec"]["nodeName"] == lost]
    assert there, f"no replica is on {lost}"
    assert len(there) < FEW, f"all replicas are on {lost}"
    version = server.roll(**WAITS)
    server.wait_for(version, "Paused")

    def unready() -> bool:
        ready = {pod["metadata"]["name"] for pod in server.space.ready_pods(f"windlass.dev/server={server.name}")}
        return not ready & set(there)

    with constant_load(server, timeout=PATIENCE) as load:
        until("requests are answered", lambda: len(load.answers) >= 50, every=0.1)
        stopped = time.monotonic()
        docker_engine("stop", "--time", "0", lost)
        try:
            until("its replicas get no traffic any more", unready, timeout=120)
            told = time.monotonic()
            approve(server, version)
            server.wait_for(version, "Serving")
            until("enough requests were answered since", lambda: load.answers[-100].sent > told, every=0.1)
        finally:
            docker_engine("start", lost)
            until(f"{lost} is back", lambda: cluster.node_ready(lost), timeout=120)
    early = [answer for answer in load.lost if answer.sent < stopped - PATIENCE]
    late = [answer for answer in load.lost if answer.sent > told + PATIENCE]
    assert early == late == [], "lost although nothing was sent to the lost node"
    assert load.wrong == []
    assert load.steps_back() == []
    server.wait_ready(FEW, 240)
    everybody_serves(server, version)
    measured(
        "sigkill",
        f"a node with {len(there)} of {FEW} replicas stopped in mid-rollout on a kind cluster, constant load",
        f"{len(load.lost)} of {len(load.answers)} requests lost, all of them sent before the node's endpoints went "
        f"({told - stopped:.0f} s); the rollout ended on the others, and on the node's replicas when it was back",
        "make e2e",
    )
    # They were restarted with the node; other tests count restarts.
    server.space.kubectl("delete", "pods", *there)
    server.wait_ready(FEW)
