"""Nodes are drained and lost, and come back."""

import pytest
from windlass_lab.testing.waiting import until

pytestmark = pytest.mark.lab

SOON = [
    {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    for taint in ("unreachable", "not-ready")
]
"""Pods leave a lost node after five seconds instead of five minutes."""


def nodes_of(namespace):
    return {pod["spec"]["nodeName"] for pod in namespace.ready_pods("app=app")}


@pytest.mark.parametrize("part", ["kube-scheduler", "kube-controller-manager"])
def test_what_there_is_one_of_is_not_elected_and_so_never_ends_on_a_busy_machine(kind_cluster, part):
    pod = f"{part}-{kind_cluster.name}-control-plane"
    command = kind_cluster.kubectl(
        "-n", "kube-system", "get", "pod", pod, "--output=jsonpath={.spec.containers[0].command}"
    )
    assert "--leader-elect=false" in command


def test_a_drained_node_is_left_by_its_pods(kind_cluster, namespace, deployment):
    namespace.apply(deployment("app", 2))
    namespace.kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    drained = min(nodes_of(namespace))
    try:
        kind_cluster.kubectl(
            "drain", drained, "--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=app=app", "--timeout=90s"
        )
        until(
            "both Pods are ready elsewhere",
            lambda: len(namespace.ready_pods("app=app")) == 2 and drained not in nodes_of(namespace),
        )
    finally:
        kind_cluster.kubectl("uncordon", drained)


def test_the_pods_of_a_lost_node_are_replaced_elsewhere(kind_cluster, docker_engine, namespace, deployment):
    namespace.apply(deployment("app", 1, spec={"tolerations": SOON}))
    namespace.kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    (lost,) = nodes_of(namespace)
    docker_engine("stop", "--time", "0", lost)
    try:
        until("the Pod is ready elsewhere", lambda: nodes_of(namespace) - {lost}, timeout=180)
    finally:
        docker_engine("start", lost)
        until(f"{lost} is back", lambda: kind_cluster.node_ready(lost), timeout=120)
    namespace.apply(deployment("app", 4))
    until("Pods run there again", lambda: lost in nodes_of(namespace), timeout=120)
