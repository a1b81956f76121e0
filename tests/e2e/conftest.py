"""The images that the end-to-end tests are about; the lab's fixtures come from the checkout's conftest.py."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from image_kit import Images, build_images
from windlass_lab.testing.docker import DockerEngine

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
