"""The image and the Pods that the lab's own tests share."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from windlass_lab.home import Home
from windlass_lab.versions import ROOT

APP = "windlass-lab/test-app:1"
HARDENED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="session")
def app_built(docker_engine):
    """The image of the small service, built here with BuildKit."""
    docker_engine.build(APP, Path(__file__).parent / "app")
    return APP


@pytest.fixture(scope="session")
def app_image(app_built, load_image):
    """The same, in every node of the cluster."""
    load_image(app_built)
    return app_built


@pytest.fixture
def container(app_image):
    """A function that describes a hardened container of the service; what is given goes over the defaults."""

    def describe(**given):
        return {"name": "app", "image": app_image, "imagePullPolicy": "Never", "securityContext": HARDENED} | given

    return describe


@pytest.fixture
def pod(container):
    """A function that describes a Pod around such a container."""

    def describe(name, *, spec=None, **given):
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [container(**given)]} | (spec or {}),
        }

    return describe


@pytest.fixture
def deployment(container):
    """A function that describes a Deployment of such Pods, with a readiness probe."""

    def describe(name, replicas=2, *, spec=None, **given):
        probe = {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "terminationGracePeriodSeconds": 1,
                        "containers": [container(readinessProbe=probe, ports=[{"containerPort": 8080}], **given)],
                    }
                    | (spec or {}),
                },
            },
        }

    return describe


@pytest.fixture
def service():
    """A function that describes a Service for the Pods labelled app=<name>."""

    def describe(name, **spec):
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]} | spec,
        }

    return describe


@pytest.fixture
def free_port():
    """A TCP port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of a lab that doesn't stand, with a path short enough for sockets; LAB_HOME leads there."""
    place = Path("/tmp") / f"lab-{os.getpid()}-{tmp_path.name[-12:]}"
    monkeypatch.setenv("LAB_HOME", str(place))
    monkeypatch.delenv("LAB", raising=False)
    made = Home.of_environment()
    made.make()
    yield made
    shutil.rmtree(place)


@pytest.fixture
def run_pytest(tmp_path):
    """A function that runs a test file of its own with the lab's plugin; gives the exit code and what it wrote."""

    def run(text, *options, **environment):
        (tmp_path / "test_inner.py").write_text(text)
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n lab: needs the lab\n plain: needs nothing\n")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "windlass_lab.fixtures",
                "-p",
                "no:cacheprovider",
                *options,
                tmp_path,
            ],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "CI": "", "LAB_REQUIRED": ""} | environment,
            cwd=tmp_path,
            timeout=150,
        )
        return done.returncode, done.stdout + done.stderr

    return run
