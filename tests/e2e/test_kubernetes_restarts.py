"""Mode Restart: new Pods bring a version, one at a time as the Deployment says; both versions answer meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_rig import REPLICAS, Document, Server, constant_load
from windlass_lab.fixtures import COLLECTORS
from windlass_lab.testing.docker import DockerEngine
from windlass_lab.testing.waiting import until

from windlass_contract.artifact import read_manifest
from windlass_testing.evidence import measured
from windlass_testing.models import affine_tflite
from windlass_testing.pages import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

FEW = 2
ROLLOUTS = 5
RESTART = {"rollout": {"mode": "Restart"}}
OPERATOR = "app.kubernetes.io/name=windlass-operator"


def upgrade_operator(server: Server, *values: str) -> None:
    """`helm upgrade`, back when it acts."""
    chart = ROOT / "charts" / "windlass-operator"
    options = [*server.operator_options(), *(f"--set={value}" for value in values)]
    server.helm("upgrade", "windlass", chart, *options, "--wait", "--timeout=120s")


@pytest.fixture(scope="module")
def server(five_replicas: Server) -> Iterator[Server]:
    """A few replicas that serve, since each rollout starts all of them anew; the operator may change their template."""
    five_replicas.scale(FEW)
    upgrade_operator(five_replicas, "restarts.enabled=true")
    yield five_replicas
    upgrade_operator(five_replicas)
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


def told(server: Server, version: int) -> set[str]:
    """The reasons of the Events about a version."""
    return {event["reason"] for event in server.events(version)}


def decide(server: Server, action: str, version: int) -> None:
    """Annotates a ModelVersion with a decision."""
    digest = server.status(version)["digest"]
    decision = (
        f'{{"id": "{action}-{version}", "action": "{action}", "server": "{server.name}", "model": "{server.model}", '
        f'"version": {version}, "digest": "{digest}"}}'
    )
    name = f"{server.model}-{version}"
    server.space.kubectl("annotate", "modelversion", name, f"decisions.windlass.dev/{action}-{version}={decision}")


def serves(server: Server, version: int, old: set[str]) -> None:
    """It is committed, on Pods that are all new."""
    server.wait_for(version, "Serving", 240)
    server.wait_ready(FEW)
    assert not old & pods(server), "a Pod was not started anew"
    assert set(server.answers().values()) == {str(version)}


@contextmanager
def watched(server: Server, kind: str, name: str, field: str) -> Iterator[list[int]]:
    """Every value that a field of an object takes meanwhile."""
    command = ["kubectl", "--namespace", server.space.name, "get", kind, name, "--watch"]
    command += ["--output", f'jsonpath={{{field}}}{{"\\n"}}']
    seen: list[int] = []
    environment = os.environ | server.space.cluster.environment
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield seen
        finally:
            process.terminate()
            assert process.stdout is not None
            seen += [int(line or 0) for line in process.stdout.read().splitlines()]


def test_five_rollouts_by_restart_lose_no_request(server: Server) -> None:
    with (
        watched(server, "deployment", server.name, ".status.availableReplicas") as available,
        watched(server, "poddisruptionbudget", server.name, ".status.currentHealthy") as healthy,
        constant_load(server) as load,
    ):
        for _ in range(ROLLOUTS):
            before = pods(server)
            serves(server, server.roll(**RESTART), before)
    assert load.lost == []
    assert load.wrong == []
    assert load.steps_back() == []
    assert len(available) > ROLLOUTS
    assert min(available) == FEW, "fewer than wanted were ready"
    budget = server.space.get("poddisruptionbudget", server.name)["status"]
    assert min(healthy) >= budget["desiredHealthy"] > 0
    assert set(server.restarts().values()) == {0}
    measured(
        "nothing-lost",
        f"{ROLLOUTS} rollouts in mode Restart on a kind cluster, {FEW} replicas, constant load through the Service",
        f"0 of {len(load.answers)} requests lost, every Pod started anew each time, never fewer than {FEW} ready",
        "make e2e",
    )


@pytest.mark.soak
def test_a_bad_version_takes_the_template_back_and_never_answers(server: Server) -> None:
    good, before = server.committed(), revision(server)
    old = pods(server)
    with constant_load(server) as load:
        version = server.next_version()
        affine_tflite(server.models, server.model, version, version, version, signatures=False)
        server.space.apply(server.version(version, **RESTART))
        server.wait_for(version, "Quarantined", 120)
        until("the template is back", lambda: revision(server) == before)
        server.wait_ready(FEW)
    assert old == pods(server), "the Deployment's surge alone was tried"
    assert load.lost == []
    assert load.wrong == []
    assert {answer.version for answer in load.answers} == {str(good)}
    assert server.committed() == good


@pytest.mark.soak
def test_a_newer_version_takes_the_place_of_one_that_is_half_way(server: Server) -> None:
    old = pods(server)
    with constant_load(server) as load:
        first = server.roll(**RESTART)
        until("a first new Pod answers with it", lambda: "Admitted" in told(server, first), timeout=120)
        serves(server, server.roll(**RESTART), old)
    assert load.lost == []
    assert load.wrong == []
    assert load.steps_back() == []
    assert server.status(first)["phase"] == "Superseded"


@pytest.mark.soak
def test_an_undo_half_way_takes_the_template_back(server: Server) -> None:
    good, before = server.committed(), revision(server)
    with constant_load(server) as load:
        version = server.roll(**RESTART)
        until("a first new Pod answers with it", lambda: "Admitted" in told(server, version), timeout=120)
        decide(server, "undo", version)
        server.wait_for(version, "Held")
        until("the template is back", lambda: revision(server) == before)
        server.wait_ready(FEW)
        until("everybody answers with the old one", lambda: set(server.answers().values()) == {str(good)})
    assert load.lost == []
    assert load.wrong == []
    assert load.steps_back() == []


@pytest.mark.soak
@pytest.mark.parametrize("moment", ["RolloutStarted", "Admitted"])
def test_an_operator_that_is_killed_half_way_leaves_it_to_the_next(server: Server, moment: str) -> None:
    old = pods(server)
    with constant_load(server) as load:
        version = server.roll(**RESTART)
        until(f"the event {moment}", lambda: moment in told(server, version), timeout=120, every=0.1)
        server.space.kubectl("delete", "pod", f"--selector={OPERATOR}", "--grace-period=0", "--force")
        serves(server, version, old)
    assert load.lost == []
    assert load.wrong == []
    assert load.steps_back() == []


def test_without_the_right_it_is_not_started_and_says_so(server: Server) -> None:
    good, before = server.committed(), pods(server)
    upgrade_operator(server)
    try:
        version = server.roll(**RESTART)
        status = server.wait_for(version, "NotSupported")
        assert "restarts.enabled=true" in status["message"]
        assert (server.committed(), pods(server)) == (good, before)
    finally:
        upgrade_operator(server, "restarts.enabled=true")
    serves(server, version, before)


# --- image volumes ---------------------------------------------------------------------------------------------


@dataclass
class Pictures:
    """A second server, whose models are images."""

    server: Server
    made: Callable[[int], Document]
    """The ModelVersion of a version, with its image in all nodes."""
    upgrade: Callable[[], str]
    """`helm upgrade`, with the image of the first version."""


@pytest.fixture
def pictures(
    server: Server, docker_engine: DockerEngine, load_image: Callable[[str], None], tmp_path: Path
) -> Iterator[Pictures]:
    """It serves version 1."""
    other = Server(server.space, server.helm, server.tag, server.shared, name="pictures", model="pictures")

    def image(version: int) -> str:
        return f"windlass-models:{server.tag}-{version}"

    def made(version: int) -> Document:
        folder = tmp_path / str(version)
        digest = read_manifest(affine_tflite(folder, other.model, version, version, version)).digest
        (folder / "Dockerfile").write_text(f"FROM scratch\nCOPY --chmod=755 {other.model} /{other.model}\n")
        docker_engine.build(image(version), folder)
        load_image(image(version))
        artifact = {"uri": f"oci://docker.io/library/{image(version)}", "digest": digest}
        identity = {"server": other.name, "model": other.model, "version": version}
        return {
            "apiVersion": "windlass.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": f"{other.model}-{version}"},
            "spec": {**identity, "artifact": artifact, **RESTART},
        }

    first = made(1)
    options = [each for each in other.server_options() if "existingClaim" not in each]
    values = [f"models.image.reference=docker.io/library/{image(1)}", f"replicas={FEW}", "service.type=NodePort"]
    chart = ROOT / "charts" / "windlass-server"
    options += [f"--set={each}" for each in values]
    try:
        server.helm("install", other.name, chart, *options)
        server.space.apply(first)
        other.wait_for(1, "Serving", 180)
        other.wait_ready(FEW)
        yield Pictures(other, made, lambda: server.helm("upgrade", other.name, chart, *options))
    finally:
        server.helm("uninstall", other.name, "--ignore-not-found")
        server.space.kubectl("delete", "modelversion", "pictures-1", "pictures-2", "--ignore-not-found")


def mounted(server: Server) -> str:
    """The image in the Pod template."""
    volumes = server.space.get("deployment", server.name)["spec"]["template"]["spec"]["volumes"]
    (found,) = [volume["image"]["reference"] for volume in volumes if volume["name"] == "models"]
    return str(found)


@pytest.mark.soak
def test_a_version_in_an_image_comes_and_goes_by_new_pods(pictures: Pictures) -> None:
    server = pictures.server
    old = pods(server)
    with constant_load(server) as load:
        server.space.apply(pictures.made(2))
        serves(server, 2, old)
        assert mounted(server).endswith("-2")
        old = pods(server)
        pictures.upgrade()
        assert (mounted(server)[-2:], pods(server)) == ("-2", old), "an upgrade knows the first image only"
        first = {"name": "models", "image": {"reference": mounted(server)[:-1] + "1"}}
        patch = json.dumps({"spec": {"template": {"spec": {"volumes": [first]}}}})
        server.space.kubectl("patch", "deployment", server.name, "--patch", patch)
        until("the image of what serves is mounted again", lambda: mounted(server).endswith("-2"))
        server.wait_ready(FEW)
        assert set(server.answers().values()) == {"2"}
        old = pods(server)
        decide(server, "undo", 2)
        serves(server, 1, old)
        assert mounted(server).endswith("-1")
    assert load.lost == []
    assert load.wrong == []
    assert load.steps_back() == []
    measured(
        "nothing-lost",
        f"a version in an image volume, and back, on a kind cluster, {FEW} replicas, constant load",
        f"0 of {len(load.answers)} requests lost",
        "make soak-lab",
    )
