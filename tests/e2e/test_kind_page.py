"""docs/kind.md, run as written on the lab's cluster, which stands in for the one that the page makes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from image_kit import Images
from windlass_lab.testing.kubernetes import KindCluster

from windlass_testing.pages import ROOT, commands, run_in_one_shell

pytestmark = [pytest.mark.lab, pytest.mark.default_ports, pytest.mark.timeout(900)]

PAGE = ROOT / "docs" / "kind.md"
MADE_BY_THE_LAB = (
    "kind create cluster --config k8s/kind.yaml",
    "make images",
    "kind load docker-image windlass-operator:0.1.0 windlass-server:0.1.0 --name windlass-try",
    "kind delete cluster --name windlass-try",
)
FIRST = (
    "kubectl create namespace digits",
    "kubectl label namespace digits pod-security.kubernetes.io/enforce=restricted",
)
"""The lab's cluster is shared: the operator is kept to this namespace, which then has to be there before."""
OPERATOR = "helm install windlass charts/windlass-operator --namespace windlass-system --create-namespace --wait"


@pytest.fixture
def cluster(kind_cluster: KindCluster, made_images: Images, load_image: Callable[[str], None]) -> Iterator[KindCluster]:
    """The lab's, with the images of this tree; what the page leaves on it goes away."""
    for image in (made_images.server, made_images.operator):
        load_image(image)
    yield kind_cluster
    gone = ("delete", "namespace", "digits", "windlass-system", "--ignore-not-found", "--timeout=120s")
    kind_cluster.kubectl(*gone, timeout=150)  # to its end: a run after this one makes them anew
    kind_cluster.kubectl("delete", "persistentvolume", "models", "--ignore-not-found", "--wait=false")


def test_every_command_of_the_page_works_as_written(cluster: KindCluster, tmp_path: Path) -> None:
    written = commands(PAGE)
    for command in (*MADE_BY_THE_LAB, *FIRST, OPERATOR):
        assert command in written
    wanted = [command for command in written if command not in (*MADE_BY_THE_LAB, *FIRST)]
    wanted[wanted.index(OPERATOR)] = (
        f"{OPERATOR} --set namespaces={{digits}} --set rbac.aggregate=false --take-ownership"
    )
    for name in ("charts", "k8s", "examples", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "shared").symlink_to(cluster.lab.home.shared)
    try:
        printed = run_in_one_shell([*FIRST, *wanted], tmp_path, 600, cluster.environment)
        assert printed.count('"className":"7"') + printed.count('"7"') >= 2
    finally:
        subprocess.run(["rm", "-rf", str(cluster.lab.home.shared / "models" / "digits")], check=True)
