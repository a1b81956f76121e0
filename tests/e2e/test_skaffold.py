"""skaffold.yaml with Skaffold itself, on the lab's cluster: run, dev with an edited line, delete.

Skaffold is published neither as a module nor as a package, so the lab has none; `SKAFFOLD=path make soak-lab` names
one. `skaffold debug` isn't tried: it adds helper images that can only be pulled.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from checkout import copy_checkout
from windlass_lab.testing.kubernetes import KindCluster
from windlass_lab.testing.waiting import until

from windlass_contract.artifact import read_manifest
from windlass_testing.evidence import measured
from windlass_testing.models import affine_tflite

pytestmark = [
    pytest.mark.lab,
    pytest.mark.soak,
    pytest.mark.default_ports,
    pytest.mark.timeout(1500),
]

EDITED = "app/src/windlass_server/api/oip_v2.py"
BEFORE, AFTER = '{"name": "windlass", "version"', '{"name": "windlass edited", "version"'
LIVE_SECONDS = 10
SPACES = ("digits", "windlass-system")


class Project:
    """A copy of the checkout with Skaffold in it; the lab's cluster is kept from what isn't its own."""

    def __init__(self, program: str, cluster: KindCluster, folder: Path) -> None:
        self.program, self.cluster, self.folder = program, cluster, folder
        copy_checkout(folder)
        path = folder / "skaffold.yaml"
        config: dict[str, Any] = yaml.safe_load(path.read_text())
        # Other tests may have left the CRD, which is the cluster's.
        config["deploy"]["helm"]["flags"] = {"install": ["--take-ownership"], "upgrade": ["--take-ownership"]}
        path.write_text(yaml.safe_dump(config))
        self.environment = os.environ | cluster.environment | {"SKAFFOLD_UPDATE_CHECK": "false"}

    def arguments(self, *words: str) -> list[str]:
        return [self.program, *words, "--interactive=false", f"--kube-context=kind-{self.cluster.name}"]

    def run(self, *words: str) -> str:
        """One command, to its end."""
        done = subprocess.run(
            self.arguments(*words),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"skaffold {' '.join(words)}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
        return done.stdout

    def kubectl(self, *words: str, given: str | None = None) -> str:
        return self.cluster.kubectl(*words, given=given)


@pytest.fixture
def project(kind_cluster: KindCluster, tmp_path: Path) -> Iterator[Project]:
    program = os.environ.get("SKAFFOLD") or shutil.which("skaffold")
    if program is None:
        pytest.skip("there is no skaffold on the PATH, and SKAFFOLD names none")
    shared = kind_cluster.lab.home.shared / "models" / "digits"
    shutil.rmtree(shared, ignore_errors=True)
    yield Project(program, kind_cluster, tmp_path)
    kind_cluster.kubectl("delete", "namespace", *SPACES, "--ignore-not-found", "--timeout=120s", timeout=150)
    shutil.rmtree(shared, ignore_errors=True)


def test_skaffold_runs_follows_an_edited_line_and_deletes(project: Project) -> None:
    began = time.monotonic()
    project.run("run")
    ran = time.monotonic() - began
    _serve(project)
    project.run("delete")
    left = project.kubectl("get", "deployments", "--namespace=digits", "--output=name")
    left += project.kubectl("get", "deployments", "--namespace=windlass-system", "--output=name")
    assert left.strip() == ""

    log = project.folder / "dev.log"
    with log.open("wb") as file:
        dev = subprocess.Popen(
            project.arguments("dev", "--port-forward=user"),
            cwd=project.folder,
            env=project.environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        until("it watches for changes", lambda: "Watching for changes" in log.read_text(errors="replace"), timeout=600)
        _serve(project)
        until("the replica answers through the forwarded port", lambda: _name() == "windlass", timeout=120, every=0.2)
        path = project.folder / EDITED
        text = path.read_text()
        assert text.count(BEFORE) == 1
        edited = time.monotonic()
        path.write_text(text.replace(BEFORE, AFTER))
        until("the edited line is live", lambda: _name() == "windlass edited", timeout=60, every=0.1)
        live = time.monotonic() - edited
    except TimeoutError as error:
        raise AssertionError(f"{error}\n{log.read_text(errors='replace')[-8000:]}") from None
    finally:
        os.killpg(dev.pid, signal.SIGINT)
        dev.wait(120)
    assert live <= LIVE_SECONDS
    measured(
        "skaffold",
        "an edited line of the replica with `skaffold dev` on a kind cluster",
        f"live in the running Pod after {live:.1f} s; `skaffold run` took {ran:.0f} s with warm caches of the engine",
        "SKAFFOLD=path make soak-lab",
    )


def _serve(project: Project) -> None:
    """Version 1, and waits until it serves."""
    models = project.cluster.lab.home.shared / "models"
    if not (models / "digits" / "1").exists():
        affine_tflite(models, "digits", 1, 2.0, 0.0)
        subprocess.run(["chmod", "--recursive", "a+rX", str(models)], check=True)
    digest = read_manifest(models / "digits" / "1").digest
    document = {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": "digits-1", "namespace": "digits"},
        "spec": {
            "server": "digits",
            "model": "digits",
            "version": 1,
            "artifact": {"uri": "volume://", "digest": digest},
        },
    }
    project.kubectl("apply", "-f", "-", given=yaml.safe_dump(document))
    wait = ("wait", "--namespace=digits", "--for=condition=Ready", "modelversion/digits-1", "--timeout=180s")
    project.cluster.kubectl(*wait, timeout=200)


def _name() -> str:
    """What the replica behind the forwarded port calls itself; empty when there is none."""
    try:
        return str(httpx.get("http://127.0.0.1:8000/v2", timeout=5).json()["name"])
    except (httpx.HTTPError, ValueError, KeyError):
        return ""
