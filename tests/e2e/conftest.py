"""The images that the end-to-end tests are about; the lab's fixtures come from the checkout's conftest.py."""

import hashlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster_rig import REPLICAS, RESTRICTED, Server, crd_file
from image_kit import Images, build_images
from windlass_lab.testing.docker import DockerEngine
from windlass_lab.testing.kubernetes import Helm, KindCluster, Namespace
from windlass_lab.testing.standing import StandingLab

from windlass_testing.pages import ROOT


@pytest.fixture(scope="session")
def windlass_images(docker_engine: Any, load_image: Callable[[str], None]) -> str:
    """The tag of images built from this tree, in the engine and in all nodes.

    They are `windlass-operator:TAG` and the small `windlass-server:TAG-litert`.
    """
    tag = f"e2e-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]}"
    for image, dockerfile, target in (
        (f"windlass-operator:{tag}", "operator", "operator"),
        (f"windlass-server:{tag}-litert", "server", "litert"),
    ):
        docker_engine.build(image, ROOT, f"--file={ROOT}/docker/{dockerfile}.Dockerfile", f"--target={target}")
        load_image(image)
    return tag


@pytest.fixture(scope="session")
def made_images(docker_engine: DockerEngine, official_image: Callable[[str], str]) -> Images:
    """All images of this tree in the engine, as `make images` builds them, and those that Compose names beside them."""
    for name in ("nginx", "postgres"):
        official_image(name)
    return build_images(docker_engine)


@pytest.fixture(scope="session")
def five_replicas(kind_cluster: KindCluster, standing_lab: StandingLab, windlass_images: str) -> Iterator[Server]:
    """Five replicas that serve version 1, with an operator, both installed by their charts."""
    space = Namespace(kind_cluster, f"rollouts-{secrets.token_hex(3)}")
    space.create({"pod-security.kubernetes.io/enforce": RESTRICTED.split("=")[1]})
    kind_cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crd_file()))
    helm = Helm(standing_lab.helms()[4], 4, space)
    server = Server(space, helm, windlass_images, standing_lab.home.shared)
    try:
        server.make_volume()
        server.install_operator()
        server.install_server(f"replicas={REPLICAS}", "service.type=NodePort")
        server.roll(1)
        server.wait_for(1, "Serving", 180)
        server.wait_ready(REPLICAS)
        yield server
    finally:
        for release in ("digits", "windlass"):
            helm("uninstall", release, "--ignore-not-found")
        space.delete()
        server.remove_volume()
