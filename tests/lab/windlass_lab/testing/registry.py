"""An image registry for tests that push, and look at what was pushed."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from windlass_lab.testing.docker import DockerEngine
from windlass_lab.testing.waiting import until

MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


@dataclass(frozen=True)
class Registry:
    """A registry that answers at `address`, such as localhost:32768; images of it are <address>/<repository>:<tag>."""

    address: str

    def manifest(self, repository: str, reference: str) -> dict[str, Any]:
        """The manifest or index of a tag or digest. Raises `urllib.error.HTTPError` when there is none."""
        return self._json(f"{repository}/manifests/{reference}", accept=", ".join(MANIFESTS))

    def blob(self, repository: str, digest: str) -> dict[str, Any]:
        """A blob that is JSON: an image's configuration, or an in-toto statement."""
        return self._json(f"{repository}/blobs/{digest}")

    def statements(self, repository: str, reference: str) -> dict[str, dict[str, Any]]:
        """The attestations of an image, in-toto statements by their predicate's type; of several platforms the last."""
        found = {}
        for described in self.manifest(repository, reference)["manifests"]:
            if described.get("annotations", {}).get("vnd.docker.reference.type") != "attestation-manifest":
                continue
            for layer in self.manifest(repository, described["digest"])["layers"]:
                predicate = layer["annotations"]["in-toto.io/predicate-type"]
                found[predicate] = self.blob(repository, layer["digest"])
        return found

    def _json(self, path: str, accept: str = "*/*") -> dict[str, Any]:
        request = urllib.request.Request(f"http://{self.address}/v2/{path}", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=30) as answer:
            content: dict[str, Any] = json.load(answer)
        return content

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            urllib.request.urlopen(f"http://{self.address}/v2/", timeout=5).close()
        except OSError:
            return False
        return True


@contextmanager
def start_registry(engine: DockerEngine, image: str) -> Iterator[Registry]:
    """Runs a registry in a container, with its port on loopback, which engines take without TLS."""
    container = engine("run", "--detach", "--publish=127.0.0.1::5000", image).strip()
    try:
        port = engine("port", container, "5000/tcp").strip().rsplit(":", 1)[1]
        registry = Registry(f"localhost:{port}")
        until("the registry answers", registry.answers, timeout=30)
        yield registry
    finally:
        engine("rm", "--force", "--volumes", container)
