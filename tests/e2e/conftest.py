"""Puts the lab's fixtures at the disposal of the end-to-end tests, and the images that they are about."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass_testing.pages import ROOT

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from image_kit import Images, build_images
from windlass_lab.testing.docker import DockerEngine


def pytest_configure(config: pytest.Config) -> None:
    """The plugin is a module of its own, which the lab's tests take too; a second time does nothing."""
    config.pluginmanager.import_plugin("windlass_lab.fixtures")


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
def made_images(docker_engine: DockerEngine) -> Images:
    """All images of this tree in the engine, as `make images` builds them; gives their names."""
    return build_images(docker_engine)
