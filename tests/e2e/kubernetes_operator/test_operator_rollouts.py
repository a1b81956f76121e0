"""From `kubectl apply` to the committed version, what people decide, and what they are told of what is missing."""

from __future__ import annotations

import json
import signal

import httpx
import pytest
from patience import wait_until
from windlass_lab.testing.kubernetes import Namespace

pytestmark = pytest.mark.lab


def test_an_applied_version_is_committed_and_people_see_it(stage) -> None:
    operator = stage.operator()
    first, second = stage.replica("r1"), stage.replica("r2")
    stage.apply("m-1", 1)
    stage.await_committed(1)
    wait_until(lambda: (first.committed, second.committed) == ([None, 1], [None, 1]), stage.seen)
    stage.await_phase("m-1", "Serving")
    before = operator.metric("windlass_operator_api_requests_total")
    reviews = operator.metric('windlass_operator_api_requests_total{code="201",resource="tokenreviews"')
    stage.apply("m-2", 2)
    stage.await_committed(2)
    stage.await_phase("m-2", "Serving")
    assert reviews <= 4, "a token is reviewed once in half a minute, not with each request"
    assert operator.metric("windlass_operator_api_requests_total") - before < 60
    status = stage.status("m-2")
    assert status["replicas"] == {"desired": 2, "prepared": 2, "committed": 2}
    assert status["observedGeneration"] == 1
    assert stage.condition("m-2", "Ready")["status"] == "True"
    assert stage.namespace.kubectl("get", "mv", "m-2").splitlines()[1].split()[4:8] == ["Serving", "2", "2", "2"]
    wait_until(lambda: ("m-2", "Committed") in stage.events(), stage.events)
    assert "Committed" in stage.namespace.kubectl("describe", "mv", "m-2")
    value = stage.namespace.get("mv", "m-2")
    assert "finalizers" not in value["metadata"]
    assert not [key for key in value["metadata"].get("annotations", {}) if key.startswith("windlass.dev")]
    assert operator.stop() == 0


def test_a_version_that_fails_is_quarantined_and_the_one_before_serves(stage) -> None:
    stage.operator()
    replica = stage.replica()
    stage.apply("m-1", 1)
    stage.await_committed(1)
    replica.failures[2] = {"gate": "Load", "reason": "LoadFailed", "message": "no such operation"}
    stage.apply("m-2", 2)
    stage.await_phase("m-2", "Quarantined")
    assert stage.condition("m-2", "Stalled")["reason"] == "LoadFailed"
    assert stage.committed() == 1
    wait_until(lambda: [name for name, _ in stage.events()].count("m-2") >= 2, stage.events)


def test_people_decide_by_annotations_and_each_is_taken_once(stage) -> None:
    stage.operator()
    replica = stage.replica()
    stage.apply("m-1", 1)
    stage.await_committed(1)
    stage.apply("m-2", 2, rollout={"steps": [{"pause": {}}]})
    stage.await_phase("m-2", "Paused")
    stage.decide("m-2", "approve", 2, 1, step=0)
    stage.await_committed(2)
    stage.decide("m-2", "undo", 2, 2)
    stage.await_committed(1)
    stage.await_phase("m-2", "Held")
    assert [each["id"] for each in stage.status("m-2")["decisions"]] == ["d1", "d2"]
    stage.namespace.kubectl("annotate", "mv", "m-2", "decisions.windlass.dev/d3={}")
    wait_until(lambda: ("m-2", "DecisionInvalid") in stage.events(), stage.events)
    assert replica.committed == [None, 1, 2, 1]


def test_acceptance_samples_come_from_a_config_map(stage) -> None:
    stage.operator()
    replica = stage.replica()
    stage.apply("m-1", 1, verify={"samples": {"configMap": "accept", "minScore": "50%"}})
    wait_until(lambda: "there is no ConfigMap accept" in stage.status("m-1").get("message", ""), stage.seen)
    samples = json.dumps({"samples": [{"inputs": {"x": [1.0]}, "expect": {"values": [2.5]}}]})
    value = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "accept"}, "data": {"samples.json": samples}}
    stage.namespace.apply(value)
    stage.await_committed(1)
    assert list(replica.samples.values()) == [samples.encode()]


def test_a_server_that_is_not_there_is_waited_for_and_said_so(stage) -> None:
    stage.operator()
    stage.apply("m-1", 1)
    wait_until(lambda: stage.condition("m-1", "Progressing").get("reason") == "NoReplicas", stage.seen)
    assert "no Deployment and no Pod has the label windlass.dev/server: cats" in stage.status("m-1")["message"]
    replica = stage.replica()
    stage.await_committed(1)
    wait_until(lambda: replica.committed == [None, 1], stage.seen)


def test_a_replica_is_told_that_there_is_no_plan_yet(stage) -> None:
    stage.operator()
    replica = stage.replica()
    wait_until(lambda: replica.no_plan_told, stage.seen)


@pytest.mark.parametrize("by", ["reviews", "the issuer's keys"])
def test_only_the_token_of_a_servers_pod_opens_the_control_endpoint(stage, by: str) -> None:
    if by != "reviews":
        stage.account.leave_the_cluster()
    operator = stage.operator()
    stage.replica("r1")
    stage.pod("other", "dogs")
    stage.pod("stranger", None)
    wait_until(lambda: operator.acting, stage.seen)
    wait_until(lambda: stage.replicas["r1"].no_plan_told, stage.seen)
    trusted = stage.trusted()
    account = stage.namespace.kubectl("create", "token", "default", "--audience=windlass-operator").strip()
    own = stage.token("r1")
    head, claims, signature = own.split(".")
    gone = stage.token("other")
    tokens = {
        "its own": (own, 200),
        "another server's": (gone, 403),
        "of a Pod that is no server's": (stage.token("stranger"), 401),
        "for another audience": (stage.token("r1", "https://kubernetes.default.svc"), 401),
        "of no Pod": (account, 401),
        "with another signature": (".".join([head, claims, signature[::-1]]), 401),
        "no token": ("nonsense", 401),
    }

    url = f"{operator.url}/control/v1/servers/cats/plan"

    def ask(token: str) -> int:
        return httpx.get(url, verify=trusted, headers={"Authorization": f"Bearer {token}"}, timeout=30).status_code

    answers = {what: ask(token) for what, (token, _) in tokens.items()}
    assert answers == {what: code for what, (_, code) in tokens.items()}
    stage.namespace.kubectl("delete", "pod", "other", "--grace-period=0", "--force")
    wait_until(lambda: ask(gone) == 401)
    assert (operator.said("tokens.by_keys") is not None) == (by != "reviews")
    stage.apply("m-1", 1)
    stage.await_committed(1)


def test_without_rights_in_a_namespace_the_others_are_served(stage, kind_cluster) -> None:
    secret = Namespace(kind_cluster, f"{stage.namespace.name[:50]}-no")
    secret.create()
    try:
        operator = stage.operator("--namespace", stage.namespace.name, "--namespace", secret.name)
        said = operator.await_said("namespace.unseen", namespace=secret.name)
        assert "give the operator's service account its role there" in said["error"]
        stage.replica()
        stage.apply("m-1", 1)
        stage.await_committed(1)
        assert operator.health("/livez")[0] == 200
        assert operator.metric("windlass_operator_unseen_namespaces") == 1
        stage.account.serve(secret)
        operator.await_said("namespace.seen", namespace=secret.name)
        secret.apply(stage.model_version("m-1", 1))
        wait_until(lambda: "status" in secret.get("mv", "m-1"), stage.seen)
    finally:
        secret.delete()


def test_a_deleted_namespace_is_let_go_of(stage, kind_cluster) -> None:
    short = Namespace(kind_cluster, f"{stage.namespace.name[:50]}-end")
    short.create()
    stage.account.serve(short)
    operator = stage.operator("--namespace", stage.namespace.name, "--namespace", short.name)
    short.apply(stage.model_version("m-1", 1))
    operator.await_said("server.found", server=f"{short.name}/cats")
    wait_until(lambda: "status" in short.get("mv", "m-1"), stage.seen)
    short.delete()
    operator.await_said("server.gone", server=f"{short.name}/cats")
    stage.replica()
    stage.apply("m-1", 1)
    stage.await_committed(1)
    assert operator.process.poll() is None


def test_a_watch_that_died_is_started_anew(stage) -> None:
    operator = stage.losing_operator()
    replica = stage.replica()
    stage.apply("m-1", 1)
    stage.await_committed(1)
    operator.process.send_signal(signal.SIGUSR1)
    stage.apply("m-2", 2)
    operator.await_said("watch.dead")
    stage.await_committed(2)
    assert operator.metric("windlass_operator_watch_restarts_total") == 1
    assert operator.health("/livez")[0] == 200
    stage.apply("m-3", 3)
    stage.await_committed(3)
    assert replica.committed == [None, 1, 2, 3]


def test_a_right_that_is_taken_away_freezes_the_namespace_until_it_is_back(stage) -> None:
    operator = stage.operator()
    stage.replica()
    stage.apply("m-1", 1)
    stage.await_committed(1)
    operator.stop()
    stage.account.leave(stage.namespace)
    operator = stage.operator()
    operator.await_said("namespace.unseen", namespace=stage.namespace.name)
    assert operator.health("/livez")[0] == 200
    assert operator.health("/readyz")[0] == 503
    stage.account.serve(stage.namespace)
    stage.apply("m-2", 2)
    stage.await_committed(2)
