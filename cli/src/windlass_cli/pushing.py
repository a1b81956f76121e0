"""How a version gets into a server's volume on a cluster: through a Pod that lives as long as that takes.

The Pod has the server's image, volume and security context, so that what it writes is read by the replicas, and no more
rights than they have. What is sent is checked there by the code that checks what a fetcher brings.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from windlass_cli.errors import UserError
from windlass_cli.sources import kubectl
from windlass_contract.artifact import Artifact
from windlass_contract.identifiers import GROUP
from windlass_contract.manifest import MANIFEST_NAME

Object = dict[str, Any]

LIFE_SECONDS = 4 * 3600
"""The Pod ends by itself after that, whatever becomes of this program."""
START_SECONDS = 180.0
END_SECONDS = 20.0
"""For the Pod to notice that nothing more is sent, and to tidy up."""
_WAITING = f"import time; time.sleep({LIFE_SECONDS})"
_ABSENT = 3
_MODELS = "/models"
_CHUNK = 1024 * 1024
_COPIED_FROM_POD = ("imagePullSecrets", "nodeSelector", "tolerations", "priorityClassName")
_ONE_NODE = ("podAffinity", "preferredDuringSchedulingIgnoredDuringExecution")


def pod_of(deployment: Object, name: str) -> Object:
    """The Pod to push through, made from the server's Deployment. Raises `UserError` when there is no such way."""
    server = str(deployment["metadata"]["name"])
    spec = deployment["spec"]["template"]["spec"]
    container = next((each for each in spec["containers"] if each["name"] == "server"), None)
    if container is None:
        raise UserError(f"Deployment {server} has no container `server`: it isn't one of the chart windlass-server")
    variables = {each["name"]: each.get("value") for each in container.get("env", [])}
    place = variables.get("WINDLASS_MODELS") or _MODELS
    mount = next((each for each in container["volumeMounts"] if each["mountPath"] == place), None)
    volume = next((each for each in spec["volumes"] if mount and each["name"] == mount["name"]), None)
    if mount is None or volume is None:
        raise UserError(f"Deployment {server} mounts no volume at {place}, where its models are")
    if "emptyDir" in volume:
        raise UserError(
            f"the replicas of {server} have a folder of their own each (emptyDir): there is no volume to push to. "
            "Publish the version on a web server or S3 and let the fetcher bring it: docs/artifacts.md"
        )
    if "image" in volume:
        raise UserError(
            f"the models of {server} are an image: nothing can be written into it. Put the version into an image of "
            "its own, and name that by oci:// in the ModelVersion: docs/artifacts.md"
        )
    writable = {key: value for key, value in mount.items() if key != "readOnly"}
    source = {
        key: {name: each for name, each in value.items() if name != "readOnly"} if isinstance(value, dict) else value
        for key, value in volume.items()
    }
    near = {
        "weight": 100,
        "podAffinityTerm": {
            "labelSelector": {"matchLabels": {f"{GROUP}/server": server}},
            "topologyKey": "kubernetes.io/hostname",
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": "windlass-push", "app.kubernetes.io/part-of": "windlass"},
        },
        "spec": {
            **{key: spec[key] for key in _COPIED_FROM_POD if key in spec},
            # A volume that only one node can mount is mounted where a replica is.
            "affinity": {_ONE_NODE[0]: {_ONE_NODE[1]: [near]}},
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIFE_SECONDS,
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": spec.get("securityContext", {}),
            "containers": [
                {
                    "name": "push",
                    "image": container["image"],
                    "imagePullPolicy": container.get("imagePullPolicy", "IfNotPresent"),
                    "command": ["/usr/bin/tini", "-s", "--", "python", "-c", _WAITING],
                    "env": [{"name": "WINDLASS_MODELS", "value": place}],
                    "securityContext": container.get("securityContext", {}),
                    "resources": {
                        "requests": {"cpu": "50m", "memory": "64Mi"},
                        "limits": {"memory": "256Mi"},
                    },
                    "volumeMounts": [writable],
                }
            ],
            "volumes": [source],
        },
    }


@dataclass(frozen=True)
class Push:
    """One version on its way to one server."""

    namespace: str
    server: str
    artifact: Artifact

    @contextlib.contextmanager
    def pod(self) -> Iterator[str]:
        """A Pod's name; it is gone afterwards, however that comes. Raises `UserError`."""
        deployment = json.loads(kubectl.kubectl(self.namespace, "get", "deployment", self.server, "--output=json"))
        name = f"windlass-push-{self.server}"[:50].rstrip("-") + f"-{secrets.token_hex(4)}"
        try:
            kubectl.kubectl(self.namespace, "create", "--filename=-", given=json.dumps(pod_of(deployment, name)))
            self._wait(name)
            yield name
        finally:
            kubectl.run(self.namespace, "delete", "pod", name, "--ignore-not-found", "--wait=false")

    def is_there(self, pod: str) -> bool:
        """Whether the server's volume has it. Raises `UserError` when something else is in its place."""
        done = kubectl.run(self.namespace, "exec", pod, "--", *self._receiver(), "--look", seconds=120)
        if done.returncode not in {0, _ABSENT}:
            raise UserError(_said(done.stderr))
        return done.returncode == 0

    def send(self, pod: str, progress: Callable[[int], None]) -> None:
        """Returns when it is verified and in its place. Raises `UserError`. `progress`: bytes just sent."""
        command = ["kubectl", "--namespace", self.namespace, "exec", "--stdin", pod, "--", *self._receiver()]
        patience = END_SECONDS
        with subprocess.Popen(  # noqa: S603 - the user's own kubectl
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Ctrl-C is for us: it is to end when we have ended the stream.
            start_new_session=True,
        ) as sending:
            stream = cast("BinaryIO", sending.stdin)
            try:
                self._write(stream, progress)
                patience = LIFE_SECONDS
            except BrokenPipeError:
                pass  # it has ended, and says why
            finally:
                # A stream that ends before its time makes the Pod's side remove what it received.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
                try:
                    sending.wait(patience)
                except subprocess.TimeoutExpired:
                    sending.kill()
            said = cast("BinaryIO", sending.stderr).read().decode(errors="replace")
        if sending.returncode:
            raise UserError(_said(said))

    def _write(self, stream: BinaryIO, progress: Callable[[int], None]) -> None:
        manifest = self.artifact.manifest
        # The manifest first: nothing is written there before it is the declared one.
        names = [MANIFEST_NAME, *(entry.path for entry in manifest.files)]
        with tarfile.open(fileobj=stream, mode="w|", bufsize=_CHUNK, format=tarfile.PAX_FORMAT) as archive:
            for name in names:
                path = self.artifact.path / name
                member = tarfile.TarInfo(name)
                member.size = path.stat().st_size
                with path.open("rb") as file:
                    archive.addfile(member, _Counted(file, progress))

    def _receiver(self) -> list[str]:
        manifest = self.artifact.manifest
        known = [manifest.model, str(manifest.version), self.artifact.digest]
        return ["python", "-m", "windlass_server.fetching.receive", *known]

    def _wait(self, name: str) -> None:
        done = kubectl.run(
            self.namespace,
            *("wait", f"pod/{name}", "--for=condition=Ready", f"--timeout={START_SECONDS:g}s"),
            seconds=START_SECONDS + 30,
        )
        if done.returncode:
            events = kubectl.run(
                self.namespace,
                *("get", "events", f"--field-selector=involvedObject.name={name},type=Warning"),
                "--output=jsonpath={range .items[*]}{.message}{'; '}{end}",
            )
            why = events.stdout.strip().rstrip(";") or done.stderr.strip()
            raise UserError(f"the Pod {name}, which would take the version, doesn't start: {why[:2000]}")


@dataclass(frozen=True)
class _Counted:
    """A file that says how much of it was read."""

    file: BinaryIO
    progress: Callable[[int], None]

    def read(self, size: int = -1) -> bytes:
        """As a file does."""
        data = self.file.read(size)
        self.progress(len(data))
        return data


def _said(text: str) -> str:
    """What the Pod's side said, without kubectl's own line about the exit code."""
    lines = [line for line in text.splitlines() if not re.match(r"command terminated with exit code", line)]
    return "\n".join(lines).strip()[:2000] or "the Pod that took the version ended without a word"
