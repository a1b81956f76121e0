"""The model suite passes inside the images: what was left out and stripped is missed by no model."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from image_kit import ROOT, Images, readable, shared_folder
from windlass_lab.testing.docker import DockerEngine

from windlass_testing.store import built

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

SUITE = ("app/tests/hosting_processes", "cli/tests/packing")
"""Runtimes, loading, trials, serving and confinement of real models, and packing of Keras' and other formats."""

LITERT_SUITE = (
    "app/tests/hosting_processes/test_channel.py",
    "app/tests/hosting_processes/test_processes.py",
    "app/tests/hosting_processes/test_trials.py",
    "app/tests/hosting_processes/test_runtimes.py::test_a_tflite_model_is_served_in_batches_and_without_tensorflow",
    "app/tests/hosting_processes/test_runtimes.py::test_a_tflite_file_that_cannot_be_read_fails_to_load",
    "cli/tests/packing/test_adopting_and_verifying.py::test_verifying_prints_the_digest",
    "cli/tests/packing/test_packing_refusals.py::test_a_version_that_is_there_is_never_overwritten",
    "cli/tests/packing/test_profiling.py",
)
"""Of it, what needs no SavedModel."""

LITERT_MODELS = (
    {"scale": 2.0, "offset": 1.0, "signatures": True},
    {"scale": 2.0, "offset": 1.0, "signatures": False},
    {"scale": 0.5, "offset": 2.0, "signatures": True},
)

EACH_TIME = "not lab and not soak and not hardening and not evidence"

RUNS_IT = """
import sys
sys.path.append("/tools")  # at the end: of what the image has, the image's is taken
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def _with_requirements(name: str, found: set[str]) -> set[str]:
    """Distributions that are installed here: this one and what it requires."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found:
        return found
    try:
        required = distribution(name).requires or []
    except PackageNotFoundError:
        return found
    found.add(name)
    for line in required:
        if "extra ==" not in line and (match := re.match(r"[A-Za-z0-9._-]+", line)):
            _with_requirements(match[0], found)
    return found


@pytest.fixture(scope="module")
def tools() -> Iterator[Path]:
    """What tests need and the image lacks, copied from this environment."""
    folder = shared_folder()
    names: set[str] = set()
    for wanted in ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "httpx"):
        _with_requirements(wanted, names)
    for name in names:
        for file in distribution(name).files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                source = Path(str(file.locate()))
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, folder / file)
    readable(folder)
    yield folder
    shutil.rmtree(folder)


def _passed(engine: DockerEngine, tools: Path, image: str, *options: str, tests: tuple[str, ...]) -> int:
    """Runs tests of the checkout in a container; gives how many passed. All have to, and none may be skipped."""
    command = [
        *("docker", "run", "--rm", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--workdir=/repository"),
        *(f"--volume={ROOT}:/repository:ro", f"--volume={tools}:/tools:ro", *options),
        "--env=PYTHONPATH=/repository/tests/support/src:/repository/operator/src",
        "--env=HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis",  # the repository can't be written to
        *("--entrypoint=python", image, "-c", RUNS_IT),
        *("-q", "--tb=native", "-p", "no:cacheprovider", "-m", EACH_TIME, *tests),
    ]
    environment = os.environ | engine.environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
    summary = done.stdout.strip().splitlines()[-1:] or [done.stderr[-2000:]]
    print(f"the model suite inside {image}: {summary[0]}")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-3000:]
    passed = re.search(r"(\d+) passed", summary[0])
    assert passed, summary
    assert "skipped" not in summary[0]
    return int(passed[1])


@pytest.mark.soak
def test_the_model_suite_passes_inside_the_image(docker_engine: DockerEngine, made_images: Images, tools: Path) -> None:
    assert _passed(docker_engine, tools, made_images.server, tests=SUITE) > 100


def test_its_part_without_tensorflow_passes_inside_the_litert_image(
    docker_engine: DockerEngine, made_images: Images, tools: Path
) -> None:
    """Models are built by TensorFlow, so they come from here. They are known by its version, so the container has what
    says that, and nothing else of it."""
    models = [built("affine_tflite", **each) for each in LITERT_MODELS]
    metadata = [file for file in distribution("tensorflow-cpu").files or [] if file.name == "METADATA"]
    for file in metadata:
        (tools / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(str(file.locate()), tools / file)
    readable(tools)
    options = (
        f"--user={os.getuid()}:{os.getgid()}",
        f"--volume={models[0].parent}:/tmp/windlass-testing-{os.getuid()}:ro",
    )
    assert _passed(docker_engine, tools, made_images.litert, *options, tests=LITERT_SUITE) > 50
