"""The API server refuses what it should: field owners, rules of a schema, Pods that are too mighty."""

import json
import secrets

import pytest
from windlass_lab.errors import CommandError
from windlass_lab.testing.kubernetes import Namespace
from windlass_lab.testing.waiting import until

pytestmark = pytest.mark.lab


def config(name, value):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": value}}


def test_server_side_apply_refuses_a_field_that_another_owns(namespace):
    def apply(value, manager, *more):
        text = json.dumps(config("owned", value))
        options = ("--server-side", f"--field-manager={manager}", *more)
        return namespace.kubectl("apply", *options, "-f", "-", given=text)

    apply("1", "first")
    with pytest.raises(CommandError, match=r'conflict with "first".*\.data\.key'):
        apply("2", "second")
    assert namespace.get("configmap", "owned")["data"] == {"key": "1"}
    apply("2", "second", "--force-conflicts")
    assert namespace.get("configmap", "owned")["data"] == {"key": "2"}


def test_an_update_of_what_changed_in_between_is_refused(namespace):
    namespace.apply(config("raced", "1"))
    old = namespace.get("configmap", "raced")
    namespace.apply(config("raced", "2"))
    with pytest.raises(CommandError, match="the object has been modified"):
        namespace.kubectl("replace", "-f", "-", given=json.dumps(old | {"data": {"key": "3"}}))


@pytest.fixture
def rope_kind(kind_cluster):
    """A custom resource with two CEL rules: a length within its maximum, a material that never changes."""
    group = f"lab-{secrets.token_hex(3)}.windlass.dev"
    material = {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "stays"}]}
    spec = {
        "type": "object",
        "properties": {"metres": {"type": "integer"}, "most": {"type": "integer"}, "material": material},
        "x-kubernetes-validations": [{"rule": "self.metres <= self.most", "message": "too long"}],
    }
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"ropes.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "ropes", "singular": "rope", "kind": "Rope"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
    kind_cluster.kubectl("apply", "-f", "-", given=json.dumps(definition))
    kind_cluster.kubectl("wait", "--for=condition=Established", f"crd/ropes.{group}", "--timeout=30s")
    yield f"{group}/v1"
    kind_cluster.kubectl("delete", f"crd/ropes.{group}", "--wait=false")


def test_cel_rules_of_a_custom_resource_are_enforced(namespace, rope_kind):
    def rope(**spec):
        return {"apiVersion": rope_kind, "kind": "Rope", "metadata": {"name": "main"}, "spec": spec}

    def applied():
        namespace.apply(rope(metres=5, most=10, material="hemp"))
        return True

    until("the new kind is served", applied)
    with pytest.raises(CommandError, match="too long"):
        namespace.apply(rope(metres=11, most=10, material="hemp"))
    with pytest.raises(CommandError, match="stays"):
        namespace.apply(rope(metres=5, most=10, material="steel"))


def test_pod_security_restricted_lets_hardened_pods_in_and_no_others(kind_cluster, namespace, pod):
    guarded = Namespace(kind_cluster, f"{namespace.name}-guarded")
    guarded.create({"pod-security.kubernetes.io/enforce": "restricted"})
    try:
        guarded.apply(pod("hardened"))
        with pytest.raises(CommandError, match='violates PodSecurity "restricted'):
            guarded.apply(pod("mighty", securityContext={"privileged": True}))
        with pytest.raises(CommandError, match="seccompProfile"):
            guarded.apply(
                pod(
                    "careless",
                    securityContext={
                        "runAsNonRoot": True,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                )
            )
        assert [each["metadata"]["name"] for each in guarded.all_of("pods")] == ["hardened"]
    finally:
        guarded.delete()
