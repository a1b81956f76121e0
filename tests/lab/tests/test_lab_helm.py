"""Helm 3 and Helm 4 install, upgrade, roll back and test a chart."""

import json

import pytest

pytestmark = pytest.mark.lab

CHART = "apiVersion: v2\nname: small\nversion: 0.1.0\n"
VALUES = "image: none\nversion: '1'\n"
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: {{ .Values.image }}
        imagePullPolicy: Never
        env: [{name: VERSION, value: {{ .Values.version | quote }}}]
        readinessProbe: {httpGet: {path: /health, port: 8080}, periodSeconds: 1}
"""
TEST = """
apiVersion: v1
kind: Pod
metadata: {name: {{ .Release.Name }}-test, annotations: {helm.sh/hook: test}}
spec:
  restartPolicy: Never
  containers:
  - name: test
    image: {{ .Values.image }}
    imagePullPolicy: Never
    command: [python, -c, "print('tested')"]
"""


@pytest.fixture
def chart(tmp_path):
    """A chart of one Deployment and one test."""
    folder = tmp_path / "small"
    (folder / "templates").mkdir(parents=True)
    for file, content in {
        "Chart.yaml": CHART,
        "values.yaml": VALUES,
        "templates/deployment.yaml": DEPLOYMENT,
        "templates/test.yaml": TEST,
    }.items():
        (folder / file).write_text(content)
    return folder


def test_a_chart_is_installed_upgraded_rolled_back_and_tested(helm, namespace, chart, app_image):
    def version():
        container = namespace.get("deployment", "app")["spec"]["template"]["spec"]["containers"][0]
        return container["env"][0]["value"]

    assert helm("version", "--template", "{{.Version}}").startswith(f"v{helm.major}.")
    wait = ("--wait", "--timeout", "120s")
    helm("install", "app", chart, "--set", f"image={app_image}", *wait)
    assert version() == "1"
    helm("upgrade", "app", chart, "--reuse-values", "--set-string", "version=2", *wait)
    assert version() == "2"
    assert len(namespace.ready_pods("app=app")) == 1
    helm("test", "app", "--timeout", "120s")
    helm("rollback", "app", "1", *wait)
    assert version() == "1"
    revisions = json.loads(helm("history", "app", "--output", "json"))
    assert [(each["revision"], each["status"]) for each in revisions][-1] == (3, "deployed")
    helm("uninstall", "app", "--wait")
    assert namespace.all_of("deployments") == []
