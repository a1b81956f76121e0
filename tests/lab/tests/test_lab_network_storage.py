"""Services and volumes in the lab's cluster."""

import json

import pytest
from windlass_lab.cluster import shared_folder
from windlass_lab.testing.waiting import until

pytestmark = pytest.mark.lab

ASK = """
import sys, urllib.request
for _ in range(int(sys.argv[2])):
    print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())
"""


def pinned(node):
    """A Pod's spec, held to one node."""
    return {"nodeSelector": {"kubernetes.io/hostname": node}}


def test_a_service_is_found_by_name_and_reached_on_the_other_node(kind_cluster, namespace, deployment, pod, service):
    here, there = kind_cluster.workers[:2]
    namespace.apply(deployment("far", 1, spec=pinned(there)), service("far"), pod("near", spec=pinned(here)))
    namespace.kubectl("rollout", "status", "deployment/far", "--timeout=120s")
    namespace.kubectl("wait", "--for=condition=Ready", "pod/near", "--timeout=90s")
    assert namespace.ready_pods("app=far")[0]["spec"]["nodeName"] == there
    for name in ("far", f"far.{namespace.name}.svc.cluster.local"):
        until(f"{name} answers", lambda name=name: namespace.exec("near", "python", "-c", ASK, f"http://{name}/", "1"))
    answers = namespace.exec("near", "python", "-c", ASK, "http://far/", "200").splitlines()
    assert {json.loads(line)["host"] for line in answers} == {namespace.ready_pods("app=far")[0]["metadata"]["name"]}
    assert len(answers) == 200


def test_a_service_spreads_over_pods_on_both_nodes(kind_cluster, namespace, deployment, pod, service):
    spread = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "app"}}}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [spread]}}
    namespace.apply(deployment("app", 2, spec={"affinity": apart}), service("app"), pod("asks"))
    namespace.kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    namespace.kubectl("wait", "--for=condition=Ready", "pod/asks", "--timeout=90s")
    pods = namespace.ready_pods("app=app")
    assert {each["spec"]["nodeName"] for each in pods} == set(kind_cluster.workers[:2])

    def seen():
        answers = namespace.exec("asks", "python", "-c", ASK, "http://app/", "60").splitlines()
        return {json.loads(line)["host"] for line in answers} == {each["metadata"]["name"] for each in pods}

    until("both answered", seen)


def test_a_claimed_volume_is_bound_and_outlives_its_pod(namespace, pod):
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}}
    claim["spec"] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}}
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]

    def user(name):
        return pod(name, volumeMounts=[{"name": "data", "mountPath": "/data"}], spec={"volumes": volumes})

    namespace.apply(claim, user("first"))
    namespace.kubectl("wait", "--for=condition=Ready", "pod/first", "--timeout=120s")
    assert namespace.get("persistentvolumeclaim", "data")["status"]["phase"] == "Bound"
    namespace.exec("first", "sh", "-c", "echo kept >/data/file")
    namespace.kubectl("delete", "pod", "first", "--timeout=60s")
    namespace.apply(user("second"))
    namespace.kubectl("wait", "--for=condition=Ready", "pod/second", "--timeout=90s")
    assert namespace.exec("second", "cat", "/data/file").strip() == "kept"


def test_a_shared_volume_is_seen_from_both_workers(kind_cluster, standing_lab, namespace, pod):
    folder = shared_folder(standing_lab.home, namespace.name)
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": namespace.name}}
    volume["spec"] = {
        "capacity": {"storage": "16Mi"},
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
        "hostPath": {"path": f"/shared/{folder.name}"},
        "claimRef": {"namespace": namespace.name, "name": "models"},
    }
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"}}
    claim["spec"] = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
        "volumeName": namespace.name,
        "resources": {"requests": {"storage": "16Mi"}},
    }
    volumes = [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]
    mounts = [{"name": "models", "mountPath": "/models"}]
    try:
        namespace.apply(volume, claim)
        for node in kind_cluster.workers[:2]:
            namespace.apply(pod(f"on-{node}", volumeMounts=mounts, spec={"volumes": volumes} | pinned(node)))
        writer, reader = (f"on-{node}" for node in kind_cluster.workers[:2])
        namespace.kubectl("wait", "--for=condition=Ready", f"pod/{writer}", f"pod/{reader}", "--timeout=120s")
        namespace.exec(writer, "sh", "-c", "echo seen >/models/file")
        assert namespace.exec(reader, "cat", "/models/file").strip() == "seen"
        assert (folder / "file").read_text().strip() == "seen"
    finally:
        namespace.kubectl("delete", "persistentvolume", namespace.name, "--wait=false", "--ignore-not-found")
