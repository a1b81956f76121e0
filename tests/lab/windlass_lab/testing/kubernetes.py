"""The kind cluster for tests, and a namespace of its own for each."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from windlass_lab.commands import run
from windlass_lab.errors import CommandError, LabError
from windlass_lab.testing.docker import DockerEngine, keep
from windlass_lab.testing.standing import StandingLab
from windlass_lab.testing.waiting import until

Document = dict[str, Any]


class KindCluster:
    """The lab's kind cluster."""

    def __init__(self, lab: StandingLab, engine: DockerEngine) -> None:
        self.lab, self.engine = lab, engine
        self.name = lab.cluster.name
        self.environment = lab.environment
        self._loaded: set[tuple[str, str]] = set()

    def kubectl(self, *arguments: str, given: str | None = None, timeout: float = 120) -> str:
        """`kubectl …` as the cluster's administrator; gives its standard output. Raises `CommandError`."""
        return run("kubectl", *arguments, environment=self.environment, given=given, timeout=timeout)

    @property
    def workers(self) -> list[str]:
        """The names of the worker nodes, sorted; each is also the name of its container."""
        return sorted(node for node in self.lab.state.nodes if "worker" in node)

    def load_image(self, image: str) -> None:
        """Puts an image of the engine into every node, once for each image id."""
        key = (image, self.engine.image_id(image))
        if key not in self._loaded:
            run("kind", "load", "docker-image", image, "--name", self.name, environment=self.environment, timeout=600)
            self._loaded.add(key)

    def node_ready(self, node: str) -> bool:
        """Whether a node is ready for Pods."""
        described = json.loads(self.kubectl("get", "node", node, "--output=json"))
        return any(c["type"] == "Ready" and c["status"] == "True" for c in described["status"]["conditions"])


class Namespace:
    """A namespace of one test."""

    def __init__(self, cluster: KindCluster, name: str) -> None:
        self.cluster, self.name = cluster, name

    def create(self, labels: dict[str, str] | None = None) -> None:
        """Makes it, with labels (such as those of Pod Security)."""
        metadata = {"name": self.name, "labels": {"windlass.dev/lab": "test", **(labels or {})}}
        self.cluster.kubectl(
            "create", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        )
        until(
            "the default service account is there",
            lambda: self.kubectl("get", "serviceaccount", "default", "--output=name"),
        )

    def kubectl(self, *arguments: str, given: str | None = None, timeout: float = 120) -> str:
        """`kubectl --namespace …`; gives its standard output. Raises `CommandError`."""
        return self.cluster.kubectl("--namespace", self.name, *arguments, given=given, timeout=timeout)

    def apply(self, *documents: Document | str, options: tuple[str, ...] = ()) -> None:
        """`kubectl apply` of dictionaries or YAML texts."""
        for document in documents:
            text = document if isinstance(document, str) else json.dumps(document)
            self.kubectl("apply", *options, "-f", "-", given=text)

    def get(self, kind: str, name: str) -> Document:
        """One object."""
        described: Document = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return described

    def all_of(self, kind: str, selector: str = "") -> list[Document]:
        """The objects of a kind, by label selector."""
        chosen = [f"--selector={selector}"] if selector else []
        items: list[Document] = json.loads(self.kubectl("get", kind, *chosen, "--output=json"))["items"]
        return items

    def ready_pods(self, selector: str) -> list[Document]:
        """Those Pods of a selector that are ready and aren't being deleted."""
        return [
            pod
            for pod in self.all_of("pods", selector)
            if "deletionTimestamp" not in pod["metadata"]
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
        ]

    def exec(self, pod: str, *command: str, container: str | None = None, timeout: float = 60) -> str:
        """Runs a command in a Pod's container; gives its standard output."""
        chosen = ["--container", container] if container else []
        return self.kubectl("exec", pod, *chosen, "--", *command, timeout=timeout)

    @contextmanager
    def port_forward(self, target: str, port: int) -> Iterator[int]:
        """A port of loopback that leads to `port` of a Pod or Service; free again afterwards."""
        arguments = ["kubectl", "--namespace", self.name, "port-forward", target, f":{port}"]
        with subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | self.cluster.environment,
        ) as process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                found = re.search(r"127\.0\.0\.1:(\d+) ->", line)
                if not found:
                    raise LabError(f"port-forward to {target} says: {line}{process.stdout.read()}")
                yield int(found[1])
            finally:
                process.terminate()

    def evidence(self, folder: Path) -> None:
        """Keeps Pods' logs (of the container before a restart too), events and descriptions."""
        keep(folder / "events.txt", lambda: self.kubectl("get", "events", "--sort-by=.lastTimestamp", "--output=wide"))
        keep(
            folder / "objects.txt",
            lambda: self.kubectl("get", "all,configmaps,persistentvolumeclaims", "--output=wide"),
        )
        keep(folder / "pods-described.txt", lambda: self.kubectl("describe", "pods"))
        keep(folder / "nodes.txt", lambda: self.cluster.kubectl("describe", "nodes"))
        try:
            pods = self.all_of("pods")
        except CommandError as error:
            (folder / "pods.txt").write_text(str(error), encoding="utf-8")
            return
        for pod in pods:
            name = pod["metadata"]["name"]
            containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
            for container in (each["name"] for each in containers):
                logs = ("logs", name, f"--container={container}", "--timestamps", "--tail=2000")
                keep(folder / f"{name}.{container}.log", partial(self.kubectl, *logs))
                states = pod["status"].get("containerStatuses", [])
                if any(state["name"] == container and state["restartCount"] for state in states):
                    keep(folder / f"{name}.{container}.previous.log", partial(self.kubectl, *logs, "--previous"))

    def delete(self) -> None:
        """Deletes it with all that is in it, without waiting for the end of that."""
        self.cluster.kubectl("delete", "namespace", self.name, "--wait=false", "--ignore-not-found")


class Helm:
    """Helm, of one major version, in one namespace."""

    def __init__(self, command: str, major: int, namespace: Namespace) -> None:
        self.command, self.major, self.namespace = command, major, namespace

    def __call__(self, *arguments: str | Path, timeout: float = 300) -> str:
        """`helm --namespace …`; gives its standard output. Raises `CommandError`."""
        return run(
            self.command,
            "--namespace",
            self.namespace.name,
            *arguments,
            environment=self.namespace.cluster.environment,
            timeout=timeout,
        )
