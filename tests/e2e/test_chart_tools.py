"""What the field's own tools say of charts and manifests: kubeconform, the API server's dry run, kube-score."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from charts_rig import CHARTS, ChartRenderer, Document
from windlass_lab.testing.kubernetes import KindCluster, Namespace
from windlass_lab.testing.schemas import LOCATION, write_schemas
from windlass_lab.testing.standing import StandingLab

from windlass_testing.pages import ROOT

pytestmark = pytest.mark.lab

EXCEPTIONS = {
    "container-image-pull-policy": "tags aren't moved; IfNotPresent starts a Pod also when the registry is away",
    "container-resources": "a CPU limit stops the version that serves while another one loads; charts/README says more",
    "container-ephemeral-storage-request-and-limit": "what Pods write is bounded by the emptyDirs' sizes",
    "pod-networkpolicy": "both charts have one; kube-score can't see that a test's Pod needs none",
    "deployment-has-host-podantiaffinity": "topologySpreadConstraints spread them, and don't keep a Pod from starting",
    "container-security-context-user-group-id": "the ids are the Pod's",
    "probes-identical": "liveness and startup ask the same: does the process stand and turn",
}
"""Checks of kube-score that we don't follow, and why."""
OF_THE_OPERATOR = {
    "deployment-replicas": "one operator is enough: servers serve on without any",
    "deployment-has-poddisruptionbudget": "an operator that stands by is never healthy: a drain would wait for ever",
    "deployment-strategy": "a new one is ready when the old one gave up its Lease: a rolling update would never end",
}
"""The same, of the operator alone."""


@pytest.fixture
def render(standing_lab: StandingLab) -> ChartRenderer:
    """Renders charts."""
    return ChartRenderer(standing_lab.helms()[3], standing_lab.environment)


@pytest.fixture
def rendered(render: ChartRenderer) -> list[Document]:
    """Both charts, with their tests."""
    return [document for chart, file in RENDERED for document in render(chart, file=file).documents]


RENDERED = (
    ("windlass-operator", ""),
    ("windlass-operator", "everything-values.yaml"),
    ("windlass-server", ""),
    ("windlass-server", "everything-values.yaml"),
    ("windlass-server", "fetcher-values.yaml"),
)
"""Chart, and a file of its `ci/`."""


def _manifests() -> list[Document]:
    files = [
        path
        for path in sorted((ROOT / "k8s").glob("**/*.yaml"))
        if path.name not in ("kustomization.yaml", "kind.yaml")
    ]
    return [document for path in files for document in yaml.safe_load_all(path.read_text()) if document]


def test_kubeconform_finds_every_field_in_the_clusters_schemas(
    kind_cluster: KindCluster, lab_command: Callable[[str], Path], rendered: list[Document], tmp_path: Path
) -> None:
    write_schemas(kind_cluster.kubectl, tmp_path)
    options = ("-strict", "-summary", "-schema-location", f"{tmp_path}/{LOCATION}")
    text = yaml.safe_dump_all([*rendered, *_manifests()])
    done = subprocess.run(
        [lab_command("kubeconform"), *options, "-skip", "CustomResourceDefinition"],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_api_server_takes_everything_and_pod_security_restricted_warns_of_nothing(
    kind_cluster: KindCluster, namespace: Namespace, rendered: list[Document]
) -> None:
    level = ("enforce", "warn")
    kind_cluster.kubectl(
        "label", "namespace", namespace.name, *(f"pod-security.kubernetes.io/{mode}=restricted" for mode in level)
    )
    for document in rendered:
        if document["metadata"].get("namespace"):
            document["metadata"]["namespace"] = namespace.name
        command = ["kubectl", "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"]
        done = subprocess.run(
            command,
            input=yaml.safe_dump(document),
            env=kind_cluster.environment | {"PATH": kind_cluster.environment["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
        )
        what = f"{document['kind']} {document['metadata']['name']}"
        assert done.returncode == 0, f"{what}: {done.stderr}"
        assert "Warning" not in done.stderr, f"{what}: {done.stderr}"


@pytest.mark.parametrize(
    ("chart", "file"), RENDERED, ids=["-".join(pair).removesuffix("-values.yaml").strip("-") for pair in RENDERED]
)
def test_kube_score_has_nothing_to_say_but_for_what_has_a_reason(
    lab_command: Callable[[str], Path], render: ChartRenderer, chart: str, file: str
) -> None:
    exceptions = [*EXCEPTIONS, *(OF_THE_OPERATOR if chart == "windlass-operator" else ())]
    done = subprocess.run(
        [
            *(lab_command("kube-score"), "score", "--output-format=ci", "--kubernetes-version=v1.35"),
            *(f"--ignore-test={check}" for check in exceptions),
            "-",
        ],
        input=yaml.safe_dump_all(render(chart, file=file).documents),
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith(("[CRITICAL]", "[WARNING]"))]
    assert said == []
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("chart", sorted(path.parent.name for path in CHARTS.glob("*/Chart.yaml")))
def test_helm_unittest_passes_each_charts_suites(lab_command: Callable[[str], Path], chart: str) -> None:
    done = subprocess.run(
        [lab_command("helm-unittest"), "--strict", CHARTS / chart], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
