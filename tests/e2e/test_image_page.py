"""The commands in docs/image.md do what the page says."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_kit import VERSION, Images, readable, shared_folder
from windlass_lab.testing.docker import DockerEngine

from windlass_testing.models import affine
from windlass_testing.one_machine import port_or_free
from windlass_testing.pages import ROOT, commands

pytestmark = [pytest.mark.lab, pytest.mark.default_ports]

PAGE = ROOT / "docs" / "image.md"


@pytest.fixture
def folder() -> Iterator[Path]:
    """What the page takes for granted: models/ with a version, a SavedModel, and a name that is free."""
    folder = shared_folder()
    affine(folder / "models", "linear", 1, 2.0, 0.0)
    shutil.copytree(folder / "models" / "linear" / "1", folder / "saved_model", ignore=lambda *_: ["manifest.json"])
    readable(folder)
    yield folder
    shutil.rmtree(folder)


def test_every_command_of_the_page_works_as_written(
    docker_engine: DockerEngine, made_images: Images, folder: Path
) -> None:
    listed = commands(PAGE)
    assert listed[0] == "make images", "which made these images"
    port = port_or_free(8000)
    try:
        for command in listed[1:]:
            ported = command.replace("8000:8000", f"{port}:8000").replace("localhost:8000", f"localhost:{port}")
            done = subprocess.run(
                ["bash", "-c", ported],
                cwd=folder,
                env=os.environ | docker_engine.environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
        assert (folder / "packed" / "linear" / "2" / "manifest.json").exists()
    finally:
        docker_engine("rm", "--force", "windlass")


def test_the_readme_begins_as_the_page_does() -> None:
    begun = commands(ROOT / "README.md", "One container")
    assert begun == commands(PAGE)[: len(begun)]


def test_the_page_names_the_version_that_is_built() -> None:
    text = PAGE.read_text()
    assert f"windlass-server:{VERSION}`" in text
    assert f"windlass-operator:{VERSION}`" in text
