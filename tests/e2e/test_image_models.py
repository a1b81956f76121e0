"""The model suite passes inside the image: what was left out and stripped is missed by no model."""

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

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.timeout(900)]

SUITE = ("app/tests/hosting_processes", "cli/tests/packing")
"""Runtimes, loading, trials, serving and confinement of real models, and packing of Keras' and other formats."""

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


def test_the_model_suite_passes_inside_the_image(docker_engine: DockerEngine, made_images: Images, tools: Path) -> None:
    command = [
        *("docker", "run", "--rm", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--workdir=/repository"),
        *(f"--volume={ROOT}:/repository:ro", f"--volume={tools}:/tools:ro"),
        "--env=PYTHONPATH=/repository/tests/support/src:/repository/operator/src",
        "--env=HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis",  # the repository can't be written to
        *("--entrypoint=python", made_images.server, "-c", RUNS_IT),
        *("-q", "--tb=native", "-p", "no:cacheprovider", "-m", EACH_TIME, *SUITE),
    ]
    environment = os.environ | docker_engine.environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
    summary = done.stdout.strip().splitlines()[-1:] or [done.stderr[-2000:]]
    print(f"the model suite inside the image: {summary[0]}")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-3000:]
    passed = re.search(r"(\d+) passed", summary[0])
    assert passed, summary
    assert int(passed[1]) > 100, summary
    assert "skipped" not in summary[0]
