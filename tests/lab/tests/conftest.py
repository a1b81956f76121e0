"""The image and the Pods that the lab's own tests share."""

import socket
from pathlib import Path

import pytest

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
