"""The kind cluster: made, mended after a restart of the engine, and taken away. Never anybody else's."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from windlass_lab.commands import run, run_long, succeeds
from windlass_lab.engine import NO_IMAGE, ask
from windlass_lab.errors import CommandError, LabError
from windlass_lab.home import Home, State, deadline
from windlass_lab.steps import Step
from windlass_lab.versions import Versions

DEFAULT_WORKERS = 2
"""The tests need two: a Service across nodes, a volume seen from both, the loss of one."""

READY = 180
"""Seconds for all nodes and the cluster's own Deployments to become ready."""


OWN_NAMESPACES = frozenset({"kube-system", "local-path-storage"})
"""Of what the cluster itself needs."""


def moment(text: str) -> datetime:
    """A time of Docker's or of Kubernetes', without its fractions of a second: Kubernetes has none."""
    return datetime.fromisoformat(text.partition(".")[0].removesuffix("Z")).replace(tzinfo=UTC)


def outlived(pods: list[dict[str, Any]], started: Mapping[str, datetime]) -> list[str]:
    """Pods of the cluster itself of which the API server tells what was before their node's container was `started`.

    When that was killed, all of its Pods' containers were, and until its kubelet has looked they are called ready.
    """
    lacking = []
    for pod in pods:
        about, node = pod["metadata"], pod["spec"].get("nodeName", "")
        if about["namespace"] not in OWN_NAMESPACES or node not in started or "deletionTimestamp" in about:
            continue
        running = [each["state"].get("running") for each in pod["status"].get("containerStatuses", [])]
        if not running or not all(each and moment(each["startedAt"]) >= started[node] for each in running):
            lacking.append(f"pod {about['namespace']}/{about['name']}")
    return lacking


def name(state: State) -> str:
    """The cluster's name: that of the one that stands, of which `state` remembers only one; else LAB_CLUSTER's."""
    return (state.cluster if state.mode else "") or os.environ.get("LAB_CLUSTER") or "windlass"


def check_name(state: State) -> None:
    """Raises `LabError` when LAB_CLUSTER names another than the one that stands, which would be orphaned."""
    asked, stands = os.environ.get("LAB_CLUSTER"), name(state)
    if asked and asked != stands:
        raise LabError(
            f"LAB_CLUSTER={asked} is asked for, but the lab stands with the kind cluster {stands!r}; "
            "run `make lab-down` first, or give the other one a LAB_HOME of its own"
        )


def configuration(home: Home, workers: int, *, restricted: bool, cgroup: str) -> dict[str, Any]:
    """kind's configuration of the cluster. JSON is YAML, so it needs no library.

    Every node has the lab's shared folder at /shared. Where the machine has cgroup v1 the kubelet is told to accept
    that, which it refuses by itself since Kubernetes 1.35. Where the machine is `restricted`, which lets nobody lower
    oom_score_adj below his own, the nodes' containerd is told not to try. There is one scheduler and one controller
    manager, so neither is elected: on a busy machine they would lose their leases, end, and be held back for minutes.
    """
    mounts = [{"hostPath": str(home.shared), "containerPath": "/shared"}]
    kubelet = {"kind": "KubeletConfiguration", "failCgroupV1": False}
    unelected = {"extraArgs": {"leader-elect": "false"}}
    kubeadm: dict[str, Any] = {"apiVersion": "kubeadm.k8s.io/v1beta3", "kind": "ClusterConfiguration"}
    kubeadm |= {"controllerManager": unelected, "scheduler": unelected}
    config: dict[str, Any] = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [{"role": role, "extraMounts": mounts} for role in ["control-plane", *["worker"] * workers]],
        "kubeadmConfigPatches": [json.dumps(kubeadm)],
    }
    if cgroup == "1":
        config["kubeadmConfigPatches"].append(json.dumps(kubelet))
    if restricted:
        config["containerdConfigPatches"] = ['[plugins."io.containerd.grpc.v1.cri"]\n  restrict_oom_score_adj = true\n']
    return config


class Cluster:
    """The cluster of this home, reached through the commands in `environment`."""

    def __init__(self, home: Home, versions: Versions, state: State, environment: dict[str, str]) -> None:
        self.home, self.versions, self.state, self.environment = home, versions, state, environment
        self.name = name(state)

    # --- looking ---------------------------------------------------------------------------------------------

    def nodes(self) -> dict[str, str]:
        """The containers of the nodes of the cluster of this name, ours or not, stopped or not: name to id."""
        listed = self._docker(
            "ps",
            "--all",
            "--no-trunc",
            "--filter",
            f"label=io.x-k8s.kind.cluster={self.name}",
            "--format",
            "{{.Names}} {{.ID}}",
        )
        return dict(line.split(" ", 1) for line in listed.splitlines() if line)

    def is_ours(self) -> bool:
        """Whether the cluster of this name is the one that the lab made, to the container."""
        nodes = self.nodes()
        return bool(nodes) and nodes == self.state.nodes and self.state.cluster == self.name

    def check_not_foreign(self) -> None:
        """Raises `LabError` when there is a cluster of this name that the lab didn't make."""
        if self.nodes() and not self.is_ours() and not self._half_made():
            raise LabError(
                f"there is a kind cluster {self.name!r} that this lab didn't make; choose another name with "
                f"LAB_CLUSTER, or delete it yourself: kind delete cluster --name {self.name}"
            )

    def answers(self, timeout: float = 5) -> bool:
        """Whether the API server is ready."""
        return succeeds(
            "kubectl",
            "get",
            "--raw",
            "/readyz",
            f"--request-timeout={timeout:g}s",
            environment=self.environment,
            timeout=timeout + 2,
        )

    def unready(self) -> list[str]:
        """Nodes, Deployments and Pods of the cluster itself that aren't ready; empty when all is well.

        Raises `CommandError` when the API server or the engine doesn't tell.
        """
        listed = json.loads(self._kubectl("get", "nodes", "--output=json"))["items"]
        ready = {
            node["metadata"]["name"]
            for node in listed
            if not node["spec"].get("unschedulable")
            and any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
        }
        lacking = [f"node {node}" for node in sorted(set(self.state.nodes) - ready)]
        for deployment in json.loads(self._kubectl("get", "deployments", "--all-namespaces", "--output=json"))["items"]:
            space = deployment["metadata"]["namespace"]
            available = deployment["status"].get("availableReplicas", 0) >= deployment["spec"]["replicas"]
            if space in OWN_NAMESPACES and not available:
                lacking.append(f"deployment {space}/{deployment['metadata']['name']}")
        pods = json.loads(self._kubectl("get", "pods", "--all-namespaces", "--output=json"))["items"]
        return lacking + outlived(pods, self._started())

    def _started(self) -> dict[str, datetime]:
        """When each node's container was started last."""
        nodes = sorted(self.state.nodes)
        if not nodes:
            return {}
        told = self._docker("inspect", "--format", "{{.Name}} {{.State.StartedAt}}", *nodes).splitlines()
        return {name.removeprefix("/"): moment(began) for name, began in (line.split() for line in told)}

    def stands(self, workers: int | None) -> bool:
        """Whether our cluster is there, of this size and of this node image, and well."""
        if not self.is_ours() or self.outdated(workers) or not self.answers():
            return False
        try:
            return not self.unready()
        except CommandError:
            return False

    def size(self, workers: int | None) -> int:
        """How many workers it is to have: as asked for, else as it stands, else the default."""
        if workers is not None:
            return workers
        return self.state.workers if self.state.nodes else DEFAULT_WORKERS

    def outdated(self, workers: int | None, *, look: bool = True) -> str:
        """Why the lab's cluster can't stay as it is: its size, its node image. Empty when it can.

        Without `look` no engine is asked, which leaves the image out.
        """
        if self.size(workers) != self.state.workers:
            return f"it has {self.state.workers} workers"
        if look and not self._of_this_image():
            return f"its nodes were made of another {self.versions.node}"
        return ""

    def _of_this_image(self) -> bool:
        node = next(iter(self.state.nodes))
        used = self._docker("inspect", "--format", "{{.Image}}", node).strip()
        try:
            return used == self._docker("image", "inspect", "--format", "{{.Id}}", self.versions.node).strip()
        except CommandError as error:
            if NO_IMAGE not in error.output.lower():
                raise
            return False

    # --- acting ----------------------------------------------------------------------------------------------

    def step(self, workers: int | None) -> Step:
        """The cluster stands, of the size asked for (None: of any size)."""
        count = self.size(workers)
        return Step(
            f"kind cluster {self.name}, {count} workers",
            lambda: self.stands(workers),
            lambda: self._make(workers, count),
        )

    def _make(self, workers: int | None, count: int) -> None:
        self.check_not_foreign()
        if self.nodes():
            why = self.outdated(workers) if self.is_ours() else "its creation was interrupted"
            if not why and self._mend():
                return
            why = why or f"it isn't well {READY} s after its nodes were started"
            sys.stderr.write(f"      deleting the kind cluster {self.name} to create it anew: {why}\n")
            self.delete()
        self._create(count)

    def _half_made(self) -> bool:
        """Whether a creation of ours was interrupted: its name is noted before it begins, its nodes afterwards."""
        return self.state.cluster == self.name and not self.state.nodes

    def _mend(self) -> bool:
        """Starts nodes that are stopped, makes cordoned ones schedulable, and waits. False when that doesn't help."""
        stopped = [
            node
            for node in self.state.nodes
            if self._docker("inspect", "--format", "{{.State.Running}}", node).strip() != "true"
        ]
        if stopped:
            self._docker("start", *stopped)
        until = deadline(READY)
        while time.monotonic() < until:
            if self.answers():
                for node in self.state.nodes:
                    succeeds("kubectl", "uncordon", node, environment=self.environment)
                if self.stands(None):
                    return True
            time.sleep(1)
        return False

    def _create(self, workers: int) -> None:
        engine = ask(self.environment)
        if engine is None:
            raise LabError("no Docker Engine answers; run `make lab`")
        self.home.shared.mkdir(parents=True, exist_ok=True)
        config = self.home.path / "kind.json"
        described = configuration(self.home, workers, restricted=self._restricted(), cgroup=engine.cgroup)
        config.write_text(json.dumps(described, indent=1), encoding="utf-8")
        self.state.cluster, self.state.workers, self.state.nodes = self.name, 0, {}
        self.state.write(self.home)
        run_long(
            "kind",
            "create",
            "cluster",
            "--name",
            self.name,
            "--image",
            self.versions.node,
            "--config",
            config,
            "--kubeconfig",
            self.home.kubeconfig,
            "--retain",
            log=self.home.logs / "kind.log",
            environment=self.environment,
        )
        self.state.workers, self.state.nodes = workers, self.nodes()
        self.state.write(self.home)
        self.wait()

    def _restricted(self) -> bool:
        """Whether not even a privileged container may lower oom_score_adj, which the kubelet does for its Pods."""
        protect = "echo -999 >/proc/self/oom_score_adj"
        container = ("run", "--rm", "--privileged", "--entrypoint", "sh", self.versions.node, "-c", protect)
        return not succeeds("docker", *container, environment=self.environment, timeout=120)

    def wait(self) -> None:
        """Waits until nodes and the cluster's own Deployments are ready. Raises `LabError` naming those that aren't."""
        until = deadline(READY)
        lacking = ["everything"]
        while time.monotonic() < until:
            try:
                lacking = self.unready()
            except CommandError as error:
                lacking = [str(error)]
            if not lacking:
                return
            time.sleep(0.5)
        raise LabError(
            f"not ready within {READY} s: {', '.join(lacking)}; look with `kubectl get pods -A` "
            '(`eval "$(make -s lab-env)"` sets it up)'
        )

    def delete(self) -> None:
        """Deletes the cluster of this name. Raises `LabError` when it isn't ours."""
        if self.nodes() and not self.is_ours() and not self._half_made() and self.state.mode != "built":
            raise LabError(
                f"the kind cluster {self.name!r} isn't the one that this lab made, so it stays; "
                f"if you mean it: kind delete cluster --name {self.name}"
            )
        run(
            "kind",
            "delete",
            "cluster",
            "--name",
            self.name,
            "--kubeconfig",
            self.home.kubeconfig,
            environment=self.environment,
            timeout=120,
        )
        self.state.cluster, self.state.workers, self.state.nodes = "", 0, {}
        self.state.write(self.home)

    def _docker(self, *arguments: str) -> str:
        return run("docker", *arguments, environment=self.environment, timeout=60)

    def _kubectl(self, *arguments: str) -> str:
        return run("kubectl", *arguments, "--request-timeout=5s", environment=self.environment, timeout=15)


def shared_folder(home: Home, name: str) -> Path:
    """A folder below the nodes' /shared, writable by every user of a Pod."""
    folder = home.shared / name
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    return folder
