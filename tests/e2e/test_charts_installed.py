"""The charts' whole life on a cluster, with Helm 3 and Helm 4: installed, tested, upgraded, uninstalled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_rig import RESTRICTED, Server, crd_file
from windlass_lab.errors import CommandError
from windlass_lab.testing.kubernetes import Helm, KindCluster, Namespace
from windlass_lab.testing.waiting import until

from windlass_testing.models import affine_tflite
from windlass_testing.pages import ROOT

pytestmark = pytest.mark.lab


@pytest.fixture
def server(kind_cluster: KindCluster, namespace: Namespace, helm: Helm, windlass_images: str) -> Iterator[Server]:
    """A namespace with Pod Security `restricted`, a volume, and nothing installed yet."""
    kind_cluster.kubectl("label", "namespace", namespace.name, RESTRICTED)
    kind_cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crd_file()))
    server = Server(namespace, helm, windlass_images, kind_cluster.lab.home.shared)
    server.make_volume()
    yield server
    server.remove_volume()


def _ready(server: Server, count: int) -> None:
    until(
        f"{count} replicas are ready",
        lambda: len(server.space.ready_pods(f"windlass.dev/server={server.name}")) == count,
        timeout=120,
    )


def _test(helm: Helm, release: str) -> str:
    """`helm test`; gives all that it shows, which Helm writes to standard error, too."""
    command = [helm.command, "--namespace", helm.namespace.name, "test", release, "--timeout=120s"]
    environment = os.environ | helm.namespace.cluster.environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _before(chart: str, folder: Path) -> Path:
    """The chart as a release before: of a lower version, without what came later."""
    old = folder / chart
    shutil.copytree(ROOT / "charts" / chart, old)
    about = old / "Chart.yaml"
    about.write_text(about.read_text().replace("\nversion: 0.1.0", "\nversion: 0.0.9"))
    return old


def test_installed_tested_upgraded_and_uninstalled_without_a_trace(server: Server, helm: Helm, tmp_path: Path) -> None:
    space = server.space
    before = {chart: _before(chart, tmp_path) for chart in ("windlass-operator", "windlass-server")}

    # A server whose operator comes later waits for it, and says for what.
    helm("install", "digits", before["windlass-server"], *server.server_options("replicas=2", "test.timeout=10"))
    helm("install", "windlass", before["windlass-operator"], *server.operator_options(), "--wait", "--timeout=120s")
    assert "acts, and its control endpoint asks for a token" in _test(helm, "windlass")
    until("its replicas run", lambda: len([p for p in server.pods() if p["status"]["phase"] == "Running"]) == 2)
    assert space.ready_pods("windlass.dev/server=digits") == [], "ready without a version"
    with pytest.raises(CommandError):
        helm("test", "digits", "--timeout=60s")  # its Pod waits for `test.timeout`

    # The first version makes it ready, and helm test predicts.
    affine_tflite(server.models, server.model, 1, 0.5, 2)
    space.apply(server.version(1))
    server.wait_for(1, "Serving")
    _ready(server, 2)
    assert "was answered by version 1, epoch" in _test(helm, "digits")
    replicas = {pod["metadata"]["uid"] for pod in server.pods()}

    # A newer chart with the same image restarts nothing, and can be waited for.
    helm("upgrade", "windlass", ROOT / "charts" / "windlass-operator", *server.operator_options(), "--wait")
    options = (*server.server_options("replicas=2"), "--wait")
    helm("upgrade", "digits", ROOT / "charts" / "windlass-server", *options)
    assert {pod["metadata"]["uid"] for pod in server.pods()} == replicas
    assert helm("list", "--output", "json").count("0.1.0") >= 2
    helm("upgrade", "digits", ROOT / "charts" / "windlass-server", *server.server_options("replicas=1"), "--wait")
    until("one replica is left", lambda: len(server.pods()) == 1)

    # In either order nothing hangs: the ModelVersions and the namespace can be deleted too.
    order = ("windlass", "digits") if helm.major == 3 else ("digits", "windlass")
    for release in order:
        helm("uninstall", release, "--wait", "--timeout=120s")
    space.kubectl("delete", "modelversions", "--all", "--timeout=30s")
    kinds = "all,leases,roles,rolebindings,networkpolicies,poddisruptionbudgets"
    until("nothing is left, no Pod either", lambda: not space.kubectl("get", kinds, "--output=name"))
    accounts = space.kubectl("get", "serviceaccounts", "--output=name").split()
    assert accounts == ["serviceaccount/default"]
    clusters = space.cluster.kubectl("get", "clusterroles,clusterrolebindings", "--output=name")
    assert f"windlass-operator:{space.name}" not in clusters
    space.cluster.kubectl("delete", "namespace", space.name, "--timeout=60s")


def test_the_crd_is_upgraded_with_the_release_and_outlives_it(server: Server, helm: Helm, tmp_path: Path) -> None:
    """Against the API server, without changing anything: the lab's CRD is everybody's."""
    chart = ROOT / "charts" / "windlass-operator"
    options = (f"--set=image.tag={server.tag}", "--set=rbac.aggregate=false", "--dry-run=server")
    shown = helm("install", "windlass", chart, *options, "--set=crds.enabled=true", "--take-ownership")
    assert "helm.sh/resource-policy: keep" in shown
    with pytest.raises(CommandError):
        helm("install", "windlass", chart, *options, "--set=crds.enable=true")


def test_what_the_operator_may_is_what_its_role_says(server: Server, helm: Helm) -> None:
    space = server.space
    helm("install", "windlass", ROOT / "charts" / "windlass-operator", *server.operator_options())
    account = f"--as=system:serviceaccount:{space.name}:windlass-operator"

    def may(*question: str, namespace: str = space.name) -> bool:
        try:
            answer = space.cluster.kubectl("auth", "can-i", *question, account, "--namespace", namespace)
        except CommandError as error:
            answer = str(error)
        return answer.strip().startswith("yes")

    assert may("list", "pods")
    assert may("patch", "modelversions.windlass.dev", "--subresource=status")
    assert not may("patch", "modelversions.windlass.dev")
    assert may("create", "tokenreviews.authentication.k8s.io")
    assert may("get", "secret/windlass-operator-tls")
    for verb, what in (("patch", "pods"), ("delete", "pods"), ("get", "secrets"), ("list", "secrets")):
        assert not may(verb, what), f"it may {verb} {what}"
    for verb, what in (("get", "configmaps"), ("list", "pods"), ("list", "modelversions.windlass.dev")):
        assert not may(verb, what, namespace="default"), f"it may {verb} {what} of a namespace that isn't its own"


def test_the_probes_and_the_healthcheck_of_the_image_agree(
    docker_engine: Callable[..., Any], standing_lab: Any, windlass_images: str
) -> None:
    from charts_rig import ChartRenderer

    described = json.loads(docker_engine("image", "inspect", f"windlass-server:{windlass_images}-litert"))[0]
    check = described["Config"]["Healthcheck"]
    seconds = {name: value / 1e9 for name, value in check.items() if name.endswith(("Interval", "Timeout", "Period"))}
    container = ChartRenderer(standing_lab.helms()[3], standing_lab.environment)("windlass-server").container()
    for name in ("livenessProbe", "readinessProbe"):
        probe = container[name]
        assert probe["periodSeconds"] == seconds["Interval"]
        assert probe["timeoutSeconds"] == seconds["Timeout"]
        assert probe["failureThreshold"] == check["Retries"]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] == seconds["StartInterval"]
    starts = -(-seconds["StartPeriod"] // seconds["StartInterval"])
    assert startup["failureThreshold"] == starts + check["Retries"]
