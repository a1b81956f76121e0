"""What objects say, and what is known after lists and watches overtook each other. No API server."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from windlass_contract.canonical import digest_of_bytes
from windlass_contract.model_version import ModelVersionStatus
from windlass_contract.record import PodTemplate
from windlass_operator.driving.samples import Samples
from windlass_operator.kubernetes_driver.cluster import UNTOLD, Cluster, Seen
from windlass_operator.kubernetes_driver.objects import SeenPod, deployment_of, model_version_of, pod_of, template_patch
from windlass_operator.kubernetes_driver.reviews import pod_of_review
from windlass_operator.kubernetes_driver.telling import desired

DIGEST = digest_of_bytes(b"1")


def metadata(name: str, version: int = 1, **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": "vision", "uid": f"uid-{name}", "resourceVersion": str(version), **more}


def model_version(name: str = "m-1", annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": metadata(name, generation=3, annotations=annotations or {}, managedFields=[{}]),
        "spec": {
            "server": "cats",
            "model": "m",
            "version": 1,
            "artifact": {"uri": "volume://", "digest": DIGEST},
            **spec,
        },
    }


def decision(**fields: Any) -> str:
    spec = {"id": "d1", "action": "undo", "server": "cats", "model": "m", "version": 1, "digest": DIGEST}
    return json.dumps({**spec, **fields})


def pod(name: str = "p", version: int = 1, *, ready: bool = True, **more: Any) -> dict[str, Any]:
    labels = {"windlass.dev/server": "cats"}
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {"metadata": metadata(name, version, labels=labels, **more), "status": {"conditions": conditions}}


def seen(name: str, version: int) -> SeenPod:
    return SeenPod("vision", name, "uid", version, "cats", ready=True, ended=False)


def test_a_model_version_says_what_is_wanted() -> None:
    found = model_version_of(model_version())
    assert (found.namespace, found.name, found.server, found.generation) == ("vision", "m-1", "cats", 3)
    assert found.model_version is not None
    assert found.problem == ""


@pytest.mark.parametrize(
    ("spec", "server", "said"),
    [
        ({"version": "1"}, "cats", "spec.version"),
        ({"newField": 1}, "cats", "spec.newField"),
        ({"server": "Cats"}, "", "spec.server"),
    ],
)
def test_one_that_is_not_understood_says_why_and_whose_it_is(spec: dict[str, Any], server: str, said: str) -> None:
    found = model_version_of(model_version(**spec))
    assert found.model_version is None
    assert found.server == server
    assert said in found.problem


@pytest.mark.parametrize(
    "value", [{}, {"metadata": None, "spec": None}, {"metadata": {"annotations": None}, "spec": []}]
)
def test_nonsense_is_no_model_version_and_no_error(value: dict[str, Any]) -> None:
    assert model_version_of(value).model_version is None
    assert not pod_of(value if isinstance(value.get("spec"), dict) else {}).ready


def test_decisions_are_annotations_whose_key_has_the_id() -> None:
    good = {"decisions.windlass.dev/d1": decision(), "other.dev/d2": "{}"}
    assert [each.id for each in model_version_of(model_version(annotations=good)).decisions] == ["d1"]
    bad = {
        "decisions.windlass.dev/d1": decision(id="d2"),
        "decisions.windlass.dev/d3": "{",
        "decisions.windlass.dev/d4": decision(id="d4", action="dance"),
        "decisions.windlass.dev/d5": decision(id="d5", reason="x" * 10_000),
    }
    found = model_version_of(model_version(annotations=bad))
    assert found.decisions == ()
    assert len(found.bad_decisions) == 4
    assert "as in the key" in found.bad_decisions[0]


def test_a_pod_that_is_deleted_or_ended_gets_no_traffic() -> None:
    assert pod_of(pod()).ready
    assert not pod_of(pod(ready=False)).ready
    assert not pod_of(pod(deletionTimestamp="2030-01-01T00:00:00Z")).ready
    failed = pod()
    failed["status"]["phase"] = "Failed"
    assert pod_of(failed).ended


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_newest_counts_in_whatever_order_it_is_heard(order: tuple[int, ...]) -> None:
    news = [
        lambda known: known.put(seen("a", 3)),
        lambda known: known.put(seen("a", 5)),
        lambda known: known.replace([seen("a", 3), seen("b", 2)], 4, None),
        lambda known: known.drop(seen("b", 6)),
    ]
    known: Seen[SeenPod] = Seen()
    for number in order:
        news[number](known)
    assert [(each.name, each.version) for each in known] == [("a", 5)]


def test_a_list_removes_what_is_gone_but_not_what_came_after_it() -> None:
    known: Seen[SeenPod] = Seen()
    known.put(seen("gone", 3))
    known.put(seen("new", 9))
    known.replace([], 5, "vision")
    assert [each.name for each in known] == ["new"]
    known.replace([], 20, "another")
    assert [each.name for each in known] == ["new"]


def test_one_made_anew_under_the_same_name_counts() -> None:
    known: Seen[SeenPod] = Seen()
    known.put(seen("a", 3))
    known.drop(seen("a", 4))
    known.put(seen("a", 3))
    assert list(known) == []
    known.put(seen("a", 5))
    assert [each.version for each in known] == [5]


def test_a_view_has_what_concerns_the_server_and_freezes_for_what_is_not_understood() -> None:
    cluster = Cluster()
    cluster.model_versions.put(model_version_of(model_version("m-1", {"decisions.windlass.dev/d1": decision()})))
    cluster.model_versions.put(model_version_of(model_version("m-2", server="dogs", version=2)))
    cluster.pods.put(pod_of(pod("p2", ready=False)))
    cluster.pods.put(pod_of(pod("p1")))
    view = cluster.view("vision/cats", lambda _: Samples("sha256:x", b"data"))
    assert [each.name for each in view.model_versions] == ["m-1"]
    assert view.model_versions[0].generation == 3
    assert [each.id for each in view.decisions] == ["d1"]
    assert [(each.name, each.ready) for each in view.replicas or ()] == [("p1", True), ("p2", False)]
    assert view.samples == {"sha256:x": b"data"}
    assert view.frozen == ""
    cluster.model_versions.put(model_version_of(model_version("m-3", version="3")))
    assert "spec.version" in cluster.view("vision/cats", lambda _: Samples()).frozen
    assert cluster.view("vision/dogs", lambda _: Samples()).frozen == ""
    cluster.model_versions.put(model_version_of(model_version("m-4", server="?")))
    assert "spec.server" in cluster.view("vision/dogs", lambda _: Samples()).frozen
    assert "can't be seen" in cluster.view("vision/dogs", lambda _: Samples(), "it can't be seen").frozen


def test_why_nobody_is_heard_is_told_from_what_the_cluster_shows() -> None:
    cluster = Cluster()
    assert "no Deployment and no Pod" in cluster.absence("vision/cats")
    value = {"metadata": metadata("cats", 1, labels={"windlass.dev/server": "cats"}), "spec": {"replicas": 0}}
    cluster.deployments.put(deployment_of(value))
    assert "scaled to 0" in cluster.absence("vision/cats")
    cluster.deployments.put(
        deployment_of({**value, "metadata": {**value["metadata"], "resourceVersion": "2"}, "spec": {}})
    )
    assert "has no Pod" in cluster.absence("vision/cats")
    cluster.pods.put(pod_of(pod()))
    assert "none has reported" in cluster.absence("vision/cats")


def review(**status: Any) -> dict[str, Any]:
    extra = {"authentication.kubernetes.io/pod-name": ["p"], "authentication.kubernetes.io/pod-uid": ["u"]}
    user = {"username": "system:serviceaccount:vision:default", "extra": extra}
    return {"status": {"authenticated": True, "audiences": ["windlass-operator"], "user": user, **status}}


def test_a_review_names_the_pod_of_a_token_for_us() -> None:
    assert pod_of_review(review()) == ("vision", "p", "u")


@pytest.mark.parametrize(
    "answer",
    [
        {},
        review(authenticated=False),
        review(authenticated="true"),
        review(audiences=["https://kubernetes.default.svc"]),
        review(audiences=None),
        review(user={"username": "system:serviceaccount:vision:default"}),
        review(user={"username": "admin", "extra": review()["status"]["user"]["extra"]}),
    ],
)
def test_any_other_token_is_nobodys(answer: dict[str, Any]) -> None:
    assert pod_of_review(answer) is None


def test_a_status_keeps_the_times_of_what_stands_there_and_replaces_nonsense() -> None:
    status = ModelVersionStatus.parse(
        {"phase": "Serving", "conditions": [{"type": "Ready", "status": "True", "reason": "Serving"}]}, "status"
    )
    first = desired(status, {}, datetime(2030, 1, 1, tzinfo=UTC))
    assert first["conditions"][0]["lastTransitionTime"] == "2030-01-01T00:00:00Z"
    assert desired(status, first, datetime(2031, 1, 1, tzinfo=UTC)) == first
    there = {"conditions": [{"nonsense": True}]}
    assert desired(status, there, datetime(2031, 1, 1, tzinfo=UTC))["conditions"][0]["lastTransitionTime"][:4] == "2031"


def deployment(
    name: str = "d", version: int = 1, revision: str | None = None, told: str = "WINDLASS_REVISION"
) -> dict[str, Any]:
    annotations = {} if revision is None else {"windlass.dev/revision": revision}
    pod = {"containers": [{"name": "proxy"}, {"name": "server", "env": [{"name": told}]}]}
    spec = {"replicas": 2, "template": {"metadata": {"annotations": annotations}, "spec": pod}}
    return {"metadata": metadata(name, version, labels={"windlass.dev/server": "cats"}), "spec": spec}


@pytest.mark.parametrize(
    ("deployments", "forbidden", "revision", "problem"),
    [
        ([deployment()], "", "", ""),
        ([deployment(revision="m-2")], "", "m-2", ""),
        ([deployment(revision="m-2")], "it may not", "m-2", "it may not"),
        ([deployment(told="OTHER")], "", "", UNTOLD.format("d")),
        ([], "", "", "no Deployment has the label windlass.dev/server: cats"),
        (
            [deployment("d"), deployment("e")],
            "",
            "",
            "more than one Deployment has the label windlass.dev/server: cats (d, e)",
        ),
    ],
)
def test_the_template_of_a_server_is_that_of_its_only_deployment(deployments, forbidden, revision, problem) -> None:
    cluster = Cluster()
    for each in deployments:
        cluster.deployments.put(deployment_of(each))
    found = cluster.view("vision/cats", lambda _: Samples(), no_restarts=forbidden).template
    assert found is not None
    assert (found.revision, found.problem) == (revision, problem)


@pytest.mark.parametrize(("revision", "written"), [("m-2-7", "m-2-7"), ("", None)])
def test_a_template_is_changed_only_as_it_was_seen(revision, written) -> None:
    seen = deployment_of(deployment(version=5, revision="m-1-3"))
    patch = template_patch(seen, PodTemplate(revision=revision))
    assert patch["metadata"] == {"resourceVersion": "5"}
    assert patch["spec"] == {"template": {"metadata": {"annotations": {"windlass.dev/revision": written}}}}


def test_the_image_of_the_models_is_seen_and_changed_where_there_is_one() -> None:
    document = deployment(revision="m-1-3")
    document["spec"]["template"]["spec"]["volumes"] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "models", "image": {"reference": "models/m:1", "pullPolicy": "IfNotPresent"}},
    ]
    seen = deployment_of(document)
    assert (seen.revision, seen.image) == ("m-1-3", "models/m:1")
    template = template_patch(seen, PodTemplate(revision="m-2-7", image="models/m:2"))["spec"]["template"]
    assert template["spec"] == {"volumes": [{"name": "models", "image": {"reference": "models/m:2"}}]}
