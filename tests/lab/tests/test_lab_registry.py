"""The lab's registry, and what a build attaches to an image that it pushes there."""

import pytest
from windlass_lab.errors import CommandError

pytestmark = pytest.mark.lab

PROVENANCE, SBOM = "https://slsa.dev/provenance", "https://spdx.dev/Document"
DOCKERFILE = "FROM python:3.11-slim-bookworm\nRUN echo {} >/built\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with a Dockerfile that nobody has built before."""
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.format(tmp_path))
    return tmp_path


def test_an_image_is_pushed_and_pulled(docker_engine, registry, folder):
    tag = f"{registry.address}/plain:1"
    docker_engine.build(tag, folder)
    built = docker_engine.image_id(tag)
    docker_engine("push", tag)
    docker_engine("image", "rm", tag)
    with pytest.raises(CommandError):
        docker_engine.image_id(tag)
    docker_engine("pull", tag)
    assert docker_engine.image_id(tag) == built
    docker_engine("image", "rm", tag)


def test_a_pushed_image_carries_provenance_and_an_sbom(docker_engine, registry, official_image, folder):
    official_image("sbom-scanner")
    tag = f"{registry.address}/attested:1"
    docker_engine("buildx", "build", "--push", "--provenance=mode=max", "--sbom=true", f"--tag={tag}", folder)
    statements = registry.statements("attested", "1")
    provenance = next(statement for kind, statement in statements.items() if kind.startswith(PROVENANCE))
    assert provenance["subject"][0]["digest"]["sha256"]
    packages = {package["name"] for package in statements[SBOM]["predicate"]["packages"]}
    assert {"base-files", "libc6"} <= packages, "Debian's packages are in it"
