"""The commands that check charts and manifests."""

import subprocess

import pytest
from windlass_lab.testing.schemas import LOCATION, write_schemas

pytestmark = pytest.mark.lab

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 2
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      containers:
      - {name: app, image: "app:1", ports: [{containerPort: 8000}], resources: {limits: {memory: 1Gi, cpu: 2}}}
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {selector: {app: app}, ports: [{port: 80, targetPort: http}, {port: 81, targetPort: 8001}]}
"""


def run(command, *arguments, folder, given=None):
    """A command's exit code, and what it wrote."""
    done = subprocess.run(
        [command, *map(str, arguments)], cwd=folder, input=given, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def schemas(kind_cluster, tmp_path_factory):
    """A folder of the cluster's own schemas."""
    folder = tmp_path_factory.mktemp("schemas")
    assert write_schemas(kind_cluster.kubectl, folder) > 100
    return folder


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", ""),
        ("replicas: 2", "replicas: two", "/spec/replicas"),
        ("containerPort", "containersPort", "containersPort"),
        ("kind: Service", "kind: Serviced", "could not find schema"),
    ],
)
def test_kubeconform_checks_against_what_the_cluster_serves(lab_command, schemas, tmp_path, old, new, said):
    options = ("-strict", "-summary", "-schema-location", f"{schemas}/{LOCATION}")
    text = DEPLOYMENT.replace(old, new) if old else DEPLOYMENT
    code, wrote = run(lab_command("kubeconform"), *options, folder=tmp_path, given=text)
    assert code == (1 if said else 0), wrote
    assert said in wrote


SUITE = """
suite: two replicas
templates: [deployment.yaml]
tests:
- it: has as many as asked for
  set: {replicas: 3}
  asserts:
  - equal: {path: spec.replicas, value: EXPECTED}
"""


@pytest.fixture
def chart(tmp_path):
    """A chart of one Deployment, with a suite of helm-unittest."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: small\nversion: 0.1.0\n")
    (tmp_path / "values.yaml").write_text("replicas: 2\n")
    template = DEPLOYMENT.split("---", maxsplit=1)[0].replace("replicas: 2", "replicas: {{ .Values.replicas }}")
    (tmp_path / "templates/deployment.yaml").write_text(template)
    return tmp_path


@pytest.mark.parametrize(("expected", "code"), [("3", 0), ("2", 1)])
def test_helm_unittest_runs_a_charts_suites(lab_command, chart, expected, code):
    (chart / "tests/deployment_test.yaml").write_text(SUITE.replace("EXPECTED", expected))
    ended, wrote = run(lab_command("helm-unittest"), ".", folder=chart)
    assert ended == code, wrote
    assert "has as many as asked for" in wrote or code == 0


def test_kube_score_names_what_a_manifest_lacks(lab_command, tmp_path):
    code, wrote = run(lab_command("kube-score"), "score", "-", folder=tmp_path, given=DEPLOYMENT)
    assert code == 1
    assert "Container Security Context" in wrote
