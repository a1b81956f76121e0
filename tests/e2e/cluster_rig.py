"""A server on the lab's cluster, installed by the charts, with its models in a folder that all nodes see."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windlass_lab.commands import run
from windlass_lab.testing.kubernetes import Namespace
from windlass_lab.testing.waiting import until

from windlass_contract.artifact import read_manifest
from windlass_testing.load import Load, Request
from windlass_testing.models import affine_tflite
from windlass_testing.pages import ROOT

Document = dict[str, Any]
REPLICAS = 5
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
_ASK = """
import urllib.request as r
body = b'{{"instances": [[1.0]]}}'
asked = r.Request("http://127.0.0.1:8000/v1/models/{model}:predict", body, {{"Content-Type": "application/json"}})
print(r.urlopen(asked, timeout=10).headers["X-Model-Version"])
"""
SMALL = ("resources.requests.cpu=50m", "resources.requests.memory=256Mi", "resources.limits.memory=1Gi")
"""What a replica of a small model needs: many of them fit on a machine for tests."""


def constant_load(server: Server, rate: float = 50, timeout: float = 30) -> Load:
    """Requests of one row each through the Service; the answer of version n to 1.0 has to be n + n."""

    def check(body: Any, version: str) -> str:
        expected = float(version) + float(version)
        return "" if body == {"predictions": [[expected]]} else f"version {version} answers {body}"

    request = Request(f"/v1/models/{server.model}:predict", {"instances": [[1.0]]}, check)
    return Load(server.url(), [request], rate=rate, timeout=timeout)


def crd_file() -> Path:
    """The generated CRD."""
    (file,) = (ROOT / "charts" / "windlass-operator" / "files").glob("**/modelversions.windlass.dev.yaml")
    return file


@dataclass
class Server:
    """The server `digits` in a namespace of a test, with an operator of its own that looks at this namespace alone."""

    space: Namespace
    helm: Callable[..., str]
    tag: str
    """Of the images; `-litert` is added for the server's."""
    shared: Path
    """The folder that nodes see at /shared."""
    name: str = "digits"
    model: str = "digits"
    values: list[str] = field(default_factory=list)

    @property
    def models(self) -> Path:
        """Where versions are written: what replicas see at /models."""
        return self.shared / self.space.name

    # --- installing --------------------------------------------------------------------------------------------

    def make_volume(self) -> None:
        """A claim `models` on the shared folder, ReadWriteMany as nodes see it; by an administrator's volume."""
        self.models.mkdir(parents=True, exist_ok=True)
        capacity, modes = {"storage": "1Gi"}, ["ReadWriteMany"]
        self.space.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": self.space.name, "labels": {"windlass.dev/lab": "test"}},
                "spec": {
                    "storageClassName": "",
                    "capacity": capacity,
                    "accessModes": modes,
                    "persistentVolumeReclaimPolicy": "Retain",
                    "hostPath": {"path": f"/shared/{self.space.name}", "type": "Directory"},
                },
            },
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "models"},
                "spec": {
                    "storageClassName": "",
                    "volumeName": self.space.name,
                    "accessModes": modes,
                    "resources": {"requests": capacity},
                },
            },
        )

    def remove_volume(self) -> None:
        """The administrator's volume and its folder, which outlive the namespace."""
        self.space.cluster.kubectl("delete", "persistentvolume", self.space.name, "--wait=false", "--ignore-not-found")
        shutil.rmtree(self.models, ignore_errors=True)

    def operator_options(self) -> list[str]:
        """What the operator's chart is installed with."""
        values = ["crds.enabled=false", "rbac.aggregate=false", f"namespaces={{{self.space.name}}}"]
        return [f"--set={value}" for value in [f"image.tag={self.tag}", *values]]

    def server_options(self, *values: str) -> list[str]:
        """What the server's chart is installed with."""
        image = ["image.variant=litert", f"image.tag={self.tag}"]
        rest = ["models.existingClaim=models", f"operator.namespace={self.space.name}", *SMALL, *self.values, *values]
        return [f"--set={value}" for value in [*image, *rest]]

    def install_operator(self, *options: str) -> None:
        """`helm install`, back when it acts."""
        chart = ROOT / "charts" / "windlass-operator"
        self.helm("install", "windlass", chart, *self.operator_options(), "--wait", "--timeout=120s", *options)

    def install_server(self, *values: str) -> None:
        """`helm install`; its replicas aren't ready before there is a version."""
        self.helm("install", self.name, ROOT / "charts" / "windlass-server", *self.server_options(*values))

    # --- rolling -----------------------------------------------------------------------------------------------

    def version(self, version: int, digest: str = "", **spec: Any) -> Document:
        """A ModelVersion; without a digest that of the files. Replicas, which are another user, may read them then."""
        run("chmod", "--recursive", "a+rX", self.models, environment={})
        digest = digest or read_manifest(self.models / self.model / str(version)).digest
        identity = {"server": self.name, "model": self.model, "version": version}
        artifact = {"uri": "volume://", "digest": digest}
        return {
            "apiVersion": "windlass.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": f"{self.model}-{version}"},
            "spec": {**identity, "artifact": artifact, **spec},
        }

    def status(self, version: int) -> Document:
        """A ModelVersion's status; empty before the operator's first visit."""
        found: Document = self.space.get("modelversion", f"{self.model}-{version}").get("status", {})
        return found

    def roll(self, version: int = 0, **spec: Any) -> int:
        """Applies a version (0: the next one) that answers n + n, and gives its number; the rollout has just begun."""
        version = version or self.next_version()
        affine_tflite(self.models, self.model, version, version, version)
        self.space.apply(self.version(version, **spec))
        return version

    def scale(self, replicas: int) -> None:
        """Scales the Deployment, and waits until as many Pods are there and ready."""
        self.space.kubectl("scale", f"deployment/{self.name}", f"--replicas={replicas}")
        self.wait_ready(replicas)

    def wait_ready(self, replicas: int, seconds: float = 120) -> None:
        """Until there are so many replicas, all ready."""
        selector = f"windlass.dev/server={self.name}"

        def there() -> bool:
            return len(self.pods()) == len(self.space.ready_pods(selector)) == replicas

        until(f"{replicas} replicas are ready, and no other is left", there, timeout=seconds)

    def answers(self) -> dict[str, str]:
        """What each replica says that it serves by default: Pod to version, asked at its own address."""
        found = {}
        for pod in self.pods():
            name = pod["metadata"]["name"]
            asked = self.space.exec(name, "python", "-c", _ASK.format(model=self.model))
            found[name] = asked.strip()
        return found

    def next_version(self) -> int:
        """A number above all that were ever there, also those that a test left behind when it failed."""
        return 1 + max(int(folder.name) for folder in (self.models / self.model).iterdir())

    def committed(self) -> int:
        """The version that the plan says is committed. Raises `CommandError`, `KeyError` when there is none."""
        plan = json.loads(self.space.get("configmap", f"{self.name}-windlass-plan")["data"]["state.json"])["plan"]
        found: int = plan["models"][self.model]["committed"]
        return found

    def wait_for(self, version: int, phase: str, seconds: float = 90) -> Document:
        """Its status, once it is in that phase."""

        def there() -> Document | None:
            status = self.status(version)
            return status if status.get("phase") == phase else None

        try:
            status = until(f"{self.model}-{version} is {phase}", there, timeout=seconds, every=0.2)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its status is {json.dumps(self.status(version))}") from None
        assert status is not None
        return status

    def pods(self) -> list[Document]:
        """The replicas."""
        return self.space.all_of("pods", f"windlass.dev/server={self.name}")

    def restarts(self) -> dict[str, int]:
        """How often each container of each Pod was restarted."""
        return {
            f"{pod['metadata']['name']}/{state['name']}": state["restartCount"]
            for pod in self.space.all_of("pods")
            for state in pod["status"].get("containerStatuses", [])
        }

    def url(self) -> str:
        """Where the Service is reached from this machine, by a node's port."""
        service = self.space.get("service", self.name)
        node = json.loads(self.space.cluster.kubectl("get", "nodes", "--output=json"))["items"][0]
        (address,) = (a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
        return f"http://{address}:{service['spec']['ports'][0]['nodePort']}"

    def events(self, version: int) -> list[Document]:
        """The Events about a ModelVersion, oldest first."""
        about = f"involvedObject.name={self.model}-{version}"
        listed = json.loads(self.space.kubectl("get", "events", f"--field-selector={about}", "--output=json"))["items"]
        return sorted(listed, key=lambda event: event["metadata"]["creationTimestamp"])
