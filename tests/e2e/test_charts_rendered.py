"""Both charts, rendered with Helm 3 and with Helm 4: what each value does, and what can't be asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from charts_rig import CHARTS, ChartRenderer, Document, Rendered
from windlass_lab.testing.standing import StandingLab

from windlass_contract.health import HEALTH
from windlass_server.fetching.settings import FetcherSettings
from windlass_testing.pages import ROOT

pytestmark = pytest.mark.lab

SERVER, OPERATOR = "windlass-server", "windlass-operator"


@pytest.fixture(scope="module", params=[3, 4], ids=["helm3", "helm4"])
def render(request: pytest.FixtureRequest, standing_lab: StandingLab) -> ChartRenderer:
    """Renders charts, once with each major version of Helm."""
    return ChartRenderer(standing_lab.helms()[request.param], standing_lab.environment)


@pytest.fixture
def server(render: ChartRenderer) -> Rendered:
    """The server's chart with its defaults."""
    return render(SERVER)


# --- both ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chart_and_file",
    [(path.parents[1].name, path.name) for path in sorted(CHARTS.glob("*/ci/*-values.yaml"))],
    ids=lambda pair: "-".join(pair).removesuffix("-values.yaml"),
)
def test_charts_pass_lint_and_their_pods_pass_pod_security_restricted(
    render: ChartRenderer, chart_and_file: tuple[str, str]
) -> None:
    chart, file = chart_and_file
    folder = CHARTS / chart
    linted = render.run("lint", "--strict", str(folder), f"--values={folder / 'ci' / file}", "--kube-version=1.35.0")
    assert linted.returncode == 0, linted.stdout + linted.stderr
    rendered = render(chart, file=file)
    for pod in [rendered.pod(), *(test["spec"] for test in rendered.tests())]:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 65532
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "cpu" not in container["resources"]["limits"]
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_names_and_labels_say_what_belongs_together(render: ChartRenderer) -> None:
    for chart in (SERVER, OPERATOR):
        for document in render(chart).documents:
            labels = document["metadata"]["labels"]
            assert labels["app.kubernetes.io/instance"] in ("windlass", "digits")
        deployment = render(chart).one("Deployment")
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert selector.keys() == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
        assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_a_chart_of_another_version_with_the_same_image_restarts_no_pod(render: ChartRenderer) -> None:
    for chart in (SERVER, OPERATOR):
        labels = render(chart).one("Deployment")["spec"]["template"]["metadata"]["labels"]
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & labels.keys()


@pytest.mark.parametrize(
    ("chart", "values", "reason"),
    [
        (SERVER, (), "models: 0 sources are given, one is needed"),
        (SERVER, ("models.existingClaim=a", "models.hostPath=/b"), "models: 2 sources are given, one is needed"),
        (SERVER, ("models.nfs.server=a",), "models.nfs.path is empty"),
        (SERVER, ("models.emptyDir.enabled=true",), "nothing would ever be in the folder; enable the fetcher"),
        (SERVER, ("models.existingClaim=a", "fetcher.enabled=true"), "it may fetch nothing: name hosts"),
        (
            SERVER,
            ("models.existingClaim=a", "fetcher.enabled=true", "fetcher.s3.endpoint=http://s3"),
            "models would go in the open",
        ),
        (
            SERVER,
            ("models.existingClaim=a", "predictions.store=postgresql"),
            "predictions.existingSecret.name is empty",
        ),
        (
            SERVER,
            ("models.existingClaim=a", "autoscaling.enabled=true", "autoscaling.minReplicas=11"),
            "autoscaling.minReplicas (11) is above autoscaling.maxReplicas (10)",
        ),
        (
            SERVER,
            ("models.existingClaim=a", "autoscaling.enabled=true", "resources.requests.cpu=null"),
            "resources.requests.cpu is missing",
        ),
        (SERVER, ("models.existingClaim=a", "health.startPeriod=300"), "health.loadDeadline (300) has to be below"),
        (SERVER, ("models.existingClaim=a", "health.drainDelay=40"), "health.drainDelay (40) has to be below"),
        (SERVER, ("models.existingClaim=a", "serviceMonitor.enabled=true"), "has no monitoring.coreos.com/v1"),
        (OPERATOR, ("serviceMonitor.enabled=true",), "has no monitoring.coreos.com/v1"),
        (OPERATOR, ("serviceAccount.create=false",), "serviceAccount.name is empty"),
        (SERVER, ("models.existingClaim=a", "replica=3"), "replica"),
        (OPERATOR, ("replicas=two",), "replicas"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(
    render: ChartRenderer, chart: str, values: tuple[str, ...], reason: str
) -> None:
    assert reason in render.refusal(chart, *values)


def test_a_release_whose_name_is_no_name_of_a_server_is_refused(render: ChartRenderer) -> None:
    assert 'it can\'t be "cats.dogs"' in render.refusal(SERVER, "models.existingClaim=a", release="cats.dogs")


# --- the server ------------------------------------------------------------------------------------------------


def test_only_the_fetcher_writes_to_the_models_and_has_the_sources_credentials(render: ChartRenderer) -> None:
    rendered = render(SERVER, file="fetcher-values.yaml")
    pod = rendered.pod()
    (fetcher,) = pod["initContainers"]
    assert fetcher["restartPolicy"] == "Always", "a native sidecar"
    assert fetcher["image"] == rendered.container()["image"]
    assert fetcher["command"][-1] == "windlass-fetcher"
    mounts = {
        container["name"]: {mount["name"]: mount for mount in container["volumeMounts"]}
        for container in (fetcher, rendered.container())
    }
    assert "readOnly" not in mounts["fetcher"]["models"]
    assert mounts["server"]["models"]["readOnly"] is True
    assert mounts["server"]["models"]["subPath"] == mounts["fetcher"]["models"]["subPath"] == "models"
    for name in ("fetcher-s3", "fetcher-netrc"):
        assert mounts["fetcher"][name]["readOnly"] is True
        assert name not in mounts["server"]
    known = {f"WINDLASS_{name.upper()}" for name in FetcherSettings.model_fields}
    assert {variable["name"] for variable in fetcher["env"]} <= known
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["models"]["emptyDir"] == {"sizeLimit": "1Gi"}
    (policy,) = rendered.all("NetworkPolicy")
    out = [rule for rule in policy["spec"]["egress"] if {"port": 9000, "protocol": "TCP"} in rule.get("ports", [])]
    assert out[0]["to"] == [{"ipBlock": {"cidr": "10.0.0.0/8"}}]


def test_without_a_fetcher_a_claim_is_read_only_and_with_one_it_can_be_written(render: ChartRenderer) -> None:
    fetching = ("fetcher.enabled=true", "fetcher.allowedHosts={models.example.com}")
    for values, expected in (((), {"claimName": "models", "readOnly": True}), (fetching, {"claimName": "models"})):
        pod = render(SERVER, *values).pod()
        assert ("initContainers" in pod) is bool(values)
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["models"]["persistentVolumeClaim"] == expected


def test_the_probes_are_made_from_the_numbers_of_the_healthcheck(server: Rendered) -> None:
    container = server.container()
    checks = {"periodSeconds": HEALTH.interval, "timeoutSeconds": HEALTH.timeout, "failureThreshold": HEALTH.retries}
    assert container["livenessProbe"] == {"httpGet": _asked("/livez"), **checks}
    assert container["readinessProbe"] == {"httpGet": _asked("/readyz"), **checks}
    assert container["startupProbe"] == {
        "httpGet": _asked("/livez"),
        "periodSeconds": HEALTH.start_interval,
        "timeoutSeconds": HEALTH.timeout,
        "failureThreshold": HEALTH.startup_failure_threshold(),
    }
    assert server.pod()["terminationGracePeriodSeconds"] == HEALTH.stop_grace_period
    assert "lifecycle" not in container


def _asked(path: str, scheme: str = "HTTP") -> Document:
    return {"path": path, "port": "http", "scheme": scheme}


def test_probes_follow_the_values_and_speak_tls_when_the_port_does(render: ChartRenderer) -> None:
    rendered = render(
        SERVER, "health.startPeriod=400", "health.startInterval=3", "health.retries=5", "tls.existingSecret=c"
    )
    probes = rendered.container()
    assert probes["startupProbe"]["failureThreshold"] == 134 + 5
    assert probes["livenessProbe"]["failureThreshold"] == 5
    assert probes["readinessProbe"]["httpGet"] == _asked("/readyz", "HTTPS")


def test_replicas_follow_the_operator_with_the_projected_token_alone(server: Rendered) -> None:
    variables, pod = server.variables(), server.pod()
    assert variables["WINDLASS_SERVER"] == "digits"
    assert variables["WINDLASS_REPLICA"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert variables["WINDLASS_OPERATOR"] == "https://windlass-operator.windlass-system.svc:8010"
    assert pod["automountServiceAccountToken"] is False
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    token = {"path": "token", "audience": "windlass-operator", "expirationSeconds": 600}
    assert volumes["control-token"]["projected"] == {"sources": [{"serviceAccountToken": token}]}
    assert volumes["plan"]["configMap"] == {"name": "digits-windlass-plan", "optional": True}
    assert volumes["operator-ca"]["configMap"] == {"name": "windlass-operator-ca"}
    mounts = {mount["name"]: mount["mountPath"] for mount in server.container()["volumeMounts"]}
    for name, file, setting in (
        ("control-token", "token", "CONTROL_TOKEN_FILE"),
        ("plan", "state.json", "PLAN_FILE"),
        ("operator-ca", "ca.crt", "OPERATOR_CA_FILE"),
    ):
        assert variables[f"WINDLASS_{setting}"] == f"{mounts[name]}/{file}"
    assert server.one("Deployment")["spec"]["template"]["metadata"]["labels"]["windlass.dev/server"] == "digits"


def test_every_variable_is_a_setting_of_the_operator(render: ChartRenderer) -> None:
    from windlass_operator.settings import ENV_PREFIX, KubernetesSettings

    variables = render(OPERATOR, "namespaces={vision}", "log.level=debug").variables()
    assert variables.keys() <= {f"{ENV_PREFIX}{name.upper()}" for name in KubernetesSettings.model_fields}


def test_every_variable_is_a_setting_of_the_server(render: ChartRenderer) -> None:
    from windlass_server.settings import ENV_PREFIX, Settings

    for file in ("everything-values.yaml", "least-values.yaml"):
        variables = render(SERVER, file=file).variables()
        known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
        assert variables.keys() <= known
        given = {name: text if isinstance(text, str) else "pod" for name, text in variables.items()}
        fields = {name.removeprefix(ENV_PREFIX).lower(): text for name, text in given.items()}
        Settings(**fields)  # each value is one that the server takes


@pytest.mark.parametrize(
    ("values", "source"),
    [
        ((), {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}}),
        (
            ("models.existingClaim=", "models.claim.create=true"),
            {"persistentVolumeClaim": {"claimName": "digits-models", "readOnly": True}},
        ),
        (
            ("models.existingClaim=", "models.hostPath=/srv/models"),
            {"hostPath": {"path": "/srv/models", "type": "Directory"}},
        ),
        (
            ("models.existingClaim=", "models.nfs.server=nas", "models.nfs.path=/models"),
            {"nfs": {"server": "nas", "path": "/models", "readOnly": True}},
        ),
    ],
    ids=["claim", "own-claim", "host-path", "nfs"],
)
def test_models_are_mounted_read_only_from_any_source(
    render: ChartRenderer, values: tuple[str, ...], source: Document
) -> None:
    rendered = render(SERVER, *values)
    (volume,) = (volume for volume in rendered.pod()["volumes"] if volume["name"] == "models")
    assert volume == {"name": "models", **source}
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in rendered.container()["volumeMounts"]
    claims = rendered.all("PersistentVolumeClaim")
    assert [claim["metadata"]["annotations"] for claim in claims] == [{"helm.sh/resource-policy": "keep"}] * len(claims)
    assert len(claims) == ("models.claim.create=true" in values)


def test_secrets_are_files_and_their_content_is_in_no_manifest(render: ChartRenderer) -> None:
    rendered = render(SERVER, file="everything-values.yaml")
    variables = rendered.variables()
    assert "WINDLASS_PREDICTIONS" not in variables
    assert variables["WINDLASS_PREDICTIONS_FILE"] == "/var/run/secrets/windlass-predictions/url"
    assert variables["WINDLASS_API_KEY_FILE"] == "/var/run/secrets/windlass-api-keys/keys"
    assert variables["WINDLASS_TLS_KEY_FILE"] == "/var/run/secrets/windlass-tls/tls.key"
    assert "Secret" not in rendered.kinds()


def test_nobody_but_the_autoscaler_owns_the_number_of_replicas(render: ChartRenderer) -> None:
    scaled = render(SERVER, "autoscaling.enabled=true")
    assert "replicas" not in scaled.one("Deployment")["spec"]
    assert scaled.one("HorizontalPodAutoscaler")["spec"]["minReplicas"] == 2
    assert "replicas" not in render(SERVER, "replicas=null").one("Deployment")["spec"]
    assert render(SERVER).one("Deployment")["spec"]["replicas"] == 2


@pytest.mark.parametrize(
    ("values", "budgets"),
    [((), 1), (("replicas=1",), 0), (("autoscaling.enabled=true",), 1), (("podDisruptionBudget.enabled=false",), 0)],
)
def test_a_disruption_budget_is_there_only_for_several_replicas(
    render: ChartRenderer, values: tuple[str, ...], budgets: int
) -> None:
    found = render(SERVER, *values).all("PodDisruptionBudget")
    assert len(found) == budgets
    assert all(budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" for budget in found)


def test_the_image_is_named_by_tag_variant_or_digest(render: ChartRenderer) -> None:
    digest = "sha256:" + "0" * 64
    for values, image in (
        ((), "windlass-server:0.1.0"),
        (("image.variant=litert",), "windlass-server:0.1.0-litert"),
        (("image.tag=1.2",), "windlass-server:1.2"),
        ((f"image.digest={digest}", "image.variant=litert"), f"windlass-server@{digest}"),
    ):
        assert render(SERVER, *values).container()["image"] == image


def test_the_network_policy_names_who_may_talk_to_whom(render: ChartRenderer) -> None:
    policy = render(SERVER, file="everything-values.yaml").one("NetworkPolicy")["spec"]
    ports = [[port["port"] for port in rule["ports"]] for rule in policy["egress"]]
    assert ports == [[53, 53], [8010], [5432]]
    (clients, metrics) = policy["ingress"]
    assert len(clients["from"]) == 2, "those named, and the Pod of helm test"
    assert metrics["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert "NetworkPolicy" not in render(SERVER, "networkPolicy.enabled=false").kinds()


def test_prometheus_finds_the_metrics_where_it_is_installed(render: ChartRenderer) -> None:
    for chart in (SERVER, OPERATOR):
        rendered = render(chart, "serviceMonitor.enabled=true", options=("--api-versions=monitoring.coreos.com/v1",))
        selector = rendered.one("ServiceMonitor")["spec"]["selector"]["matchLabels"]
        (service,) = (s for s in rendered.all("Service") if selector.items() <= s["metadata"]["labels"].items())
        assert "metrics" in [port["name"] for port in service["spec"]["ports"]]


def test_the_notes_name_the_next_commands(render: ChartRenderer) -> None:
    notes = (CHARTS / SERVER / "templates" / "NOTES.txt").read_text()
    for command in ("kubectl apply", "kubectl get modelversions", "helm test"):
        assert command in notes
    assert "--wait" in notes


# --- the operator ----------------------------------------------------------------------------------------------


def _rules(rendered: Rendered, kind: str) -> list[Document]:
    return [{**rule, "role": role["metadata"]["name"]} for role in rendered.all(kind) for rule in role["rules"]]


def _may(rules: list[Document], verb: str, resource: str) -> list[Document]:
    return [rule for rule in rules if verb in rule["verbs"] and resource in rule["resources"]]


def test_the_operator_has_the_least_rights(render: ChartRenderer) -> None:
    rendered = render(OPERATOR)
    everywhere, at_home = _rules(rendered, "ClusterRole"), _rules(rendered, "Role")
    for rules in (everywhere, at_home):
        for rule in rules:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
        for verb in ("patch", "update", "create", "delete"):
            assert not _may(rules, verb, "pods")
    assert not [rule for rule in everywhere if "secrets" in rule["resources"]]
    for verb in ("get", "update"):
        (rule,) = _may(at_home, verb, "secrets")
        assert rule["resourceNames"] == ["windlass-operator-tls"]
    assert not _may(at_home, "list", "secrets")


def test_with_named_namespaces_it_may_only_ask_about_tokens_and_whether_they_are_there(render: ChartRenderer) -> None:
    rendered = render(OPERATOR, "namespaces={vision,speech}", "rbac.aggregate=false")
    (tokens, there) = _rules(rendered, "ClusterRole")
    assert (tokens["resources"], tokens["verbs"]) == (["tokenreviews"], ["create"])
    assert (there["resources"], there["verbs"]) == (["namespaces"], ["get"])
    assert there["resourceNames"] == ["vision", "speech"]
    assert {role["metadata"]["namespace"] for role in rendered.all("Role")} == {"windlass-system", "vision", "speech"}
    bound = {each["metadata"]["namespace"]: each["subjects"] for each in rendered.all("RoleBinding")}
    account = {"kind": "ServiceAccount", "name": "windlass-operator", "namespace": "windlass-system"}
    assert bound == {name: [account] for name in ("windlass-system", "vision", "speech")}
    assert rendered.variables()["WINDLASS_OPERATOR_NAMESPACES"] == "vision,speech"


def test_without_token_reviews_it_has_no_right_outside_of_its_namespaces(render: ChartRenderer) -> None:
    named = render(OPERATOR, "namespaces={vision}", "rbac.tokenReviews=false", "rbac.aggregate=false")
    assert not named.kinds() & {"ClusterRole", "ClusterRoleBinding"}
    everywhere = _rules(render(OPERATOR, "rbac.tokenReviews=false", "rbac.aggregate=false"), "ClusterRole")
    assert everywhere
    assert not _may(everywhere, "create", "tokenreviews")


def test_the_crd_is_an_object_of_the_release_and_stays_unless_told_otherwise(render: ChartRenderer) -> None:
    kept = render(OPERATOR).one("CustomResourceDefinition")
    assert kept["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    given_up = render(OPERATOR, "crds.keep=false").one("CustomResourceDefinition")
    assert "helm.sh/resource-policy" not in given_up["metadata"].get("annotations", {})
    assert "CustomResourceDefinition" not in render(OPERATOR, "crds.enabled=false").kinds()
    (file,) = (CHARTS / OPERATOR / "files").glob("**/modelversions.*.yaml")
    assert kept["spec"] == yaml.safe_load(file.read_text())["spec"]


def test_operators_that_stand_by_hold_up_neither_an_update_nor_a_drain(render: ChartRenderer) -> None:
    rendered = render(OPERATOR, "replicas=2")
    assert rendered.one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert "PodDisruptionBudget" not in rendered.kinds()


def test_replicas_and_nobody_else_reach_the_control_port(render: ChartRenderer) -> None:
    control, metrics = render(OPERATOR).one("NetworkPolicy")["spec"]["ingress"]
    (replicas, test) = control["from"]
    assert replicas["podSelector"] == {"matchExpressions": [{"key": "windlass.dev/server", "operator": "Exists"}]}
    assert test["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "windlass-operator-test"}
    assert "from" not in metrics


# --- without Helm ----------------------------------------------------------------------------------------------


def _plain(text: str) -> dict[tuple[str, str], Any]:
    """Objects by kind and name, with lists of named things in the order of their names."""
    return {(d["kind"], d["metadata"]["name"]): _sorted(d) for d in yaml.safe_load_all(text) if d}


def _sorted(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _sorted(value) for key, value in node.items()}
    if isinstance(node, list):
        return sorted((_sorted(each) for each in node), key=lambda each: json.dumps(each, sort_keys=True))
    return node


def test_the_plain_manifests_are_what_the_charts_render(standing_lab: StandingLab, render: ChartRenderer) -> None:
    import os
    import subprocess
    import sys

    command = [sys.executable, str(ROOT / "k8s" / "generate.py"), "--check"]
    done = subprocess.run(command, env=os.environ | {"HELM": render.helm}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("overlay", "values"),
    [
        ("kind", ()),
        ("postgresql", ("predictions.store=postgresql", "predictions.existingSecret.name=predictions")),
        ("autoscaling", ("autoscaling.enabled=true",)),
    ],
)
def test_an_overlay_is_the_chart_with_its_values(
    standing_lab: StandingLab, overlay: str, values: tuple[str, ...]
) -> None:
    from windlass_lab.commands import run

    generate = _k8s_generator(standing_lab)
    built = _plain(
        run("kubectl", "kustomize", ROOT / "k8s" / "overlays" / overlay, environment=standing_lab.environment)
    )
    of_chart = generate.render(*generate.SERVER, *generate.SERVER_VALUES, *values)
    expected = _plain(yaml.safe_dump_all([generate.namespace("digits"), *of_chart]))
    added = {("PersistentVolume", "models"), ("PersistentVolumeClaim", "models")} if overlay == "kind" else set()
    assert built.keys() - expected.keys() == added
    assert {key: built[key] for key in expected} == expected


def _k8s_generator(lab: StandingLab) -> Any:
    import importlib.util
    import os
    import sys

    os.environ["HELM"] = lab.helms()[3]
    spec = importlib.util.spec_from_file_location("k8s_generate", ROOT / "k8s" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
