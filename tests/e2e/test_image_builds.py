"""How the images are built: clean by Docker's checks, the same each time, quickly after an edit, with attestations."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_kit import ROOT, VERSION, Images
from windlass_lab.errors import CommandError
from windlass_lab.testing.docker import DockerEngine
from windlass_lab.testing.registry import Registry

from windlass_testing.evidence import measured

pytestmark = pytest.mark.lab

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
SHIPPED = [("server", "litert"), ("operator", "operator")]
"""Dockerfile and target; the target with TensorFlow is built uncached by the soak."""


def _make(engine: DockerEngine, *arguments: str) -> str:
    done = subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=os.environ | engine.environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockers_build_checks_find_nothing(docker_engine: DockerEngine, path: Path) -> None:
    told = docker_engine("build", "--check", f"--file={path}", ROOT)
    assert "Check complete, no warnings found." in told


def _digest(engine: DockerEngine, dockerfile: str, target: str, folder: Path, *options: str) -> str:
    """Of an image built now, with the files' times set to the source's."""
    file = folder / f"{secrets.token_hex(4)}.tar"
    engine(
        *("build", "--quiet", f"--file={ROOT}/docker/{dockerfile}.Dockerfile", f"--target={target}"),
        *("--build-arg=SOURCE_DATE_EPOCH=1700000000", "--provenance=false"),
        *(f"--output=type=oci,dest={file},rewrite-timestamp=true", *options, ROOT),
        timeout=1200,
    )
    with tarfile.open(file) as archive:
        index = archive.extractfile("index.json")
        assert index is not None
        (manifest,) = json.load(index)["manifests"]
    file.unlink()
    return str(manifest["digest"])


def _built_twice(engine: DockerEngine, dockerfile: str, target: str, folder: Path) -> list[str]:
    """Digests of two builds of everything but the tools; the second has nothing of the first."""
    stages = "init,builder,application,runtime,packages,litert-packages,tensorflow-packages"
    stages += f",{target},tensorflow"
    return [_digest(engine, dockerfile, target, folder, f"--no-cache-filter={stages}") for _ in range(2)]


@pytest.mark.soak
@pytest.mark.evidence
@pytest.mark.parametrize(("dockerfile", "target"), SHIPPED)
def test_two_builds_give_one_digest(
    docker_engine: DockerEngine, made_images: Images, dockerfile: str, target: str, tmp_path: Path
) -> None:
    first, second = _built_twice(docker_engine, dockerfile, target, tmp_path)
    same = "the same digest" if first == second else "different digests"
    measured("image-start", f"{target}: built twice, each time without the cache", same, "make soak-lab")
    assert first == second


@pytest.mark.soak
@pytest.mark.evidence
@pytest.mark.timeout(2400)
def test_two_builds_with_tensorflow_give_one_digest(
    docker_engine: DockerEngine, made_images: Images, tmp_path: Path
) -> None:
    first, second = _built_twice(docker_engine, "server", "server", tmp_path)
    same = "the same digest" if first == second else "different digests"
    measured("image-start", "server: built twice, each time without the cache", same, "make soak-lab")
    assert first == second


@pytest.mark.evidence
def test_an_edited_line_is_in_an_image_soon(docker_engine: DockerEngine, made_images: Images, tmp_path: Path) -> None:
    """The image with TensorFlow, from a copy of the tree in which a line is edited."""
    tree = tmp_path / "tree"
    for part in ("contract", "app", "cli", "docker"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    shutil.copy(ROOT / "requirements-uv.lock", tree)
    image = f"windlass-server:edited-{secrets.token_hex(4)}"
    edited = tree / "app" / "src" / "windlass_server" / "errors.py"
    seconds = []
    try:
        for number in range(2):
            edited.write_text(edited.read_text() + f"\nEDITED = {number}\n")
            start = time.monotonic()
            docker_engine.build(image, tree, f"--file={tree}/docker/server.Dockerfile", "--target=server")
            seconds.append(time.monotonic() - start)
        told = docker_engine(
            *("run", "--rm", "--entrypoint=python", image),
            *("-c", "from windlass_server import errors; print(errors.EDITED)"),
        )
        assert told.strip() == "1"
    finally:
        docker_engine("image", "rm", "--force", image)
    measured(
        "image-start",
        "server: from one edited line to a built image",
        f"{min(seconds):.1f} s (of {len(seconds)}: {', '.join(f'{each:.1f}' for each in seconds)}); at most 10 s",
        "make e2e",
    )
    assert min(seconds) <= 10


def test_the_base_can_be_named_by_digest(docker_engine: DockerEngine, made_images: Images, registry: Registry) -> None:
    """From a registry, which is asked for that digest whatever its tag has become."""
    tagged = f"{registry.address}/python:3.11-slim-bookworm"
    docker_engine("tag", "python:3.11-slim-bookworm", tagged)
    image = f"windlass-operator:pinned-{secrets.token_hex(4)}"
    try:
        pushed = re.search(r"digest: (sha256:[0-9a-f]{64})", docker_engine("push", tagged))
        assert pushed
        base = f"{tagged}@{pushed[1]}"
        options = (f"--file={ROOT}/docker/operator.Dockerfile", f"--build-arg=BASE={base}")
        docker_engine.build(image, ROOT, *options, timeout=300)
        assert docker_engine.inspect(image)["Config"]["Labels"]["org.opencontainers.image.base.name"] == base
        never_pushed = f"{tagged}@sha256:{'0' * 64}"
        with pytest.raises(CommandError, match="not found"):
            docker_engine.build(image, ROOT, options[0], f"--build-arg=BASE={never_pushed}", timeout=300)
    finally:
        docker_engine("image", "rm", "--force", image, tagged)


@pytest.mark.parametrize(
    ("kind", "repository", "tag", "package"),
    [
        ("operator", "windlass/windlass-operator", VERSION, "windlass-operator"),
        ("litert", "windlass/windlass-server", f"{VERSION}-litert", "ai-edge-litert"),
        pytest.param(
            *("server", "windlass/windlass-server", VERSION, "tensorflow-cpu"),
            marks=[pytest.mark.soak, pytest.mark.timeout(1800)],
        ),
    ],
    ids=["operator", "litert", "server"],
)
def test_what_is_pushed_tells_how_it_was_built_and_what_is_in_it(
    docker_engine: DockerEngine,
    made_images: Images,
    registry: Registry,
    official_image: Callable[[str], str],
    kind: str,
    repository: str,
    tag: str,
    package: str,
) -> None:
    """`make push-images`: provenance and a bill of materials of each image, by BuildKit's own scanner."""
    _make(
        docker_engine,
        "push-images",
        f"REGISTRY={registry.address}/windlass",
        f"SBOM_SCANNER={official_image('sbom-scanner')}",
        f"PUSH={kind}",
    )
    statements = registry.statements(repository, tag)
    (provenance,) = (each for about, each in statements.items() if "slsa.dev/provenance" in about)
    part = repository.rpartition("-")[2]
    assert f"{part}.Dockerfile" in json.dumps(provenance["predicate"]), provenance
    listed = _python_packages(statements["https://spdx.dev/Document"]["predicate"])
    assert package in {name for name, _ in listed}
    lock = (ROOT / "docker" / "requirements" / f"{kind}.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==([^ ]+)", lock, re.MULTILINE))
    ours = {each for each in listed if each[0].startswith("windlass-")}
    assert listed - ours <= locked
    assert len(listed) >= len(locked) * 3 / 4, "of the others the lock says that they are for other platforms"


def _python_packages(bill: dict[str, Any]) -> set[tuple[str, str]]:
    """Names, as the lock has them, and versions in a bill of materials in SPDX."""
    return {
        (re.sub(r"[-_.]+", "-", each["name"]).lower(), each["versionInfo"])
        for each in bill["packages"]
        if any(ref["referenceLocator"].startswith("pkg:pypi/") for ref in each.get("externalRefs", ()))
    }
