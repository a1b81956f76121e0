"""Pods in the lab's cluster do what Windlass needs of Pods."""

import json
import secrets
import urllib.request

import pytest
from windlass_lab.errors import CommandError
from windlass_lab.testing.waiting import until

pytestmark = pytest.mark.lab


def finished(namespace, pod):
    """The Pod's description once it has ended."""

    def ended():
        described = namespace.get("pod", pod)
        return described if described["status"]["phase"] in ("Succeeded", "Failed") else None

    return until(f"the Pod {pod} has ended", ended)


def test_a_cache_mount_of_buildkit_outlives_the_build(docker_engine, app_built, tmp_path):
    run = (
        f"windlass-lab-{secrets.token_hex(4)}"  # a cache of this run's own, and commands that no earlier run has built
    )

    def builds(number):
        (tmp_path / "Dockerfile").write_text(
            f"FROM {app_built}\nUSER 0\nRUN --mount=type=cache,id={run},target=/cache"
            f" echo {run}-{number} >>/cache/builds && cp /cache/builds /builds\n"
        )
        docker_engine.build("windlass-lab/cached", tmp_path)
        return docker_engine("run", "--rm", "--entrypoint", "cat", "windlass-lab/cached", "/builds").split()

    assert builds(1) == [f"{run}-1"]
    assert builds(2) == [f"{run}-1", f"{run}-2"]


def test_a_deployment_of_two_hardened_pods_becomes_ready(namespace, deployment):
    namespace.apply(deployment("app"))
    namespace.kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    pods = namespace.ready_pods("app=app")
    assert len(pods) == 2
    one = pods[0]["metadata"]["name"]
    assert namespace.exec(one, "id", "-u").strip() == "65532"
    status = dict(line.split(":\t", 1) for line in namespace.exec(one, "cat", "/proc/self/status").splitlines())
    assert status["Seccomp"].strip() == "2", "RuntimeDefault filters system calls"
    assert int(status["CapBnd"], 16) == 0
    with pytest.raises(CommandError, match="Read-only file system"):
        namespace.exec(one, "touch", "/app/x")


def test_a_container_over_its_memory_limit_is_killed(namespace, pod):
    """It eats when it is told to: what dies while it is still being started isn't seen to be out of memory."""
    eat = "until test -e /dev/shm/eat; do sleep 0.1; done; exec python -c 'held = bytearray(256 * 1024 * 1024)'"
    limits = {"limits": {"memory": "64Mi"}}
    namespace.apply(pod("hungry", command=["sh", "-c", eat], resources=limits, spec={"restartPolicy": "Never"}))
    namespace.kubectl("wait", "--for=condition=Ready", "pod/hungry", "--timeout=60s")
    namespace.exec("hungry", "touch", "/dev/shm/eat")
    ended = finished(namespace, "hungry")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_a_native_sidecar_starts_before_the_job_and_ends_after_it(namespace, container):
    volume = {"name": "scratch", "emptyDir": {}}
    mounts = [{"name": "scratch", "mountPath": "/scratch"}]
    sidecar = container(
        name="sidecar",
        restartPolicy="Always",
        command=["sh", "-c", "echo up >/scratch/sidecar; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"],
        startupProbe={"exec": {"command": ["cat", "/scratch/sidecar"]}, "periodSeconds": 1},
        volumeMounts=mounts,
    )
    main = container(name="main", command=["cat", "/scratch/sidecar"], volumeMounts=mounts)
    template = {"restartPolicy": "Never", "initContainers": [sidecar], "containers": [main], "volumes": [volume]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}}
    namespace.apply(job | {"spec": {"backoffLimit": 0, "template": {"spec": template}}})
    namespace.kubectl("wait", "--for=condition=Complete", "job/job", "--timeout=90s")
    done = namespace.all_of("pods", "job-name=job")[0]
    assert namespace.kubectl("logs", done["metadata"]["name"], "--container=main").strip() == "up"
    assert "terminated" in done["status"]["initContainerStatuses"][0]["state"]


def test_an_edit_of_a_configmap_reaches_the_pod(namespace, pod):
    def config(value):
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plan"}, "data": {"epoch": value}}

    namespace.apply(config("1"))
    volumes = [{"name": "plan", "configMap": {"name": "plan"}}]
    namespace.apply(pod("reader", volumeMounts=[{"name": "plan", "mountPath": "/plan"}], spec={"volumes": volumes}))
    namespace.kubectl("wait", "--for=condition=Ready", "pod/reader", "--timeout=90s")
    assert namespace.exec("reader", "cat", "/plan/epoch") == "1"
    namespace.apply(config("2"))
    # the kubelet looks once a minute, and at once when the Pod itself changes
    namespace.kubectl("annotate", "pod/reader", "windlass.dev/touched=now")
    until("the file is the new one", lambda: namespace.exec("reader", "cat", "/plan/epoch") == "2", timeout=150)


def test_a_projected_token_passes_tokenreview_for_its_audience_alone(namespace, pod):
    source = {"serviceAccountToken": {"path": "token", "audience": "windlass", "expirationSeconds": 600}}
    volumes = [{"name": "token", "projected": {"sources": [source]}}]
    mounts = [{"name": "token", "mountPath": "/token"}]
    namespace.apply(pod("holder", volumeMounts=mounts, spec={"volumes": volumes}))
    namespace.kubectl("wait", "--for=condition=Ready", "pod/holder", "--timeout=90s")
    token = namespace.exec("holder", "cat", "/token/token")

    def review(audience):
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
        asked["spec"] = {"token": token, "audiences": [audience]}
        return json.loads(namespace.kubectl("create", "-f", "-", "--output=json", given=json.dumps(asked)))["status"]

    accepted = review("windlass")
    assert accepted["authenticated"]
    assert accepted["user"]["username"] == f"system:serviceaccount:{namespace.name}:default"
    assert accepted["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["holder"]
    assert not review("somebody-else").get("authenticated", False)


def test_exec_logs_and_port_forward_reach_a_pod(namespace, pod):
    namespace.apply(pod("app"))
    namespace.kubectl("wait", "--for=condition=Ready", "pod/app", "--timeout=90s")
    assert namespace.exec("app", "hostname").strip() == "app"
    until("it serves", lambda: "serving" in namespace.kubectl("logs", "app"))
    with (
        namespace.port_forward("pod/app", 8080) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer,
    ):
        assert json.load(answer) == {"host": "app", "version": "1"}
    assert "answered /" in namespace.kubectl("logs", "app")


def test_an_image_volume_shows_an_images_files(namespace, pod, app_image):
    volumes = [{"name": "files", "image": {"reference": app_image, "pullPolicy": "Never"}}]
    namespace.apply(
        pod(
            "reader",
            volumeMounts=[{"name": "files", "mountPath": "/files", "readOnly": True}],
            spec={"volumes": volumes},
        )
    )
    namespace.kubectl("wait", "--for=condition=Ready", "pod/reader", "--timeout=90s")
    assert "def do_GET" in namespace.exec("reader", "cat", "/files/app/app.py")
