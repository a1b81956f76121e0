"""The operator's real command as a process, with no more rights than its role gives, on the lab's real API server.

The servers' Pods are real objects with real tokens of their own; nothing runs in them. A replica in this process speaks
for each: that is quick, and can be made to fail in every way.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cutting import CutLine
from patience import DEADLINE, wait_until
from windlass_lab.errors import CommandError
from windlass_lab.testing.kubernetes import KindCluster, Namespace

from windlass_contract.canonical import digest_of_bytes
from windlass_contract.crd import as_yaml
from windlass_testing.following import Replica

RIGHTS = yaml.safe_load(Path(__file__).with_name("rights.yaml").read_text())
"""What the operator may do: in each namespace that it serves, in its own, and in the cluster."""
CRD = "modelversions.windlass.dev"


def digest(text: str) -> str:
    return digest_of_bytes(text.encode())


@pytest.fixture(scope="session")
def crd(kind_cluster: KindCluster) -> None:
    """The CRD as it is checked in."""
    kind_cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=as_yaml())
    kind_cluster.kubectl("wait", "--for=condition=Established", f"crd/{CRD}", "--timeout=30s")


class Account:
    """A service account with the operator's rights, and the kubeconfig that it logs in with."""

    def __init__(self, home: Namespace, folder: Path) -> None:
        self.home = home
        self.file = folder / "kubeconfig.yaml"
        self._serving = f"windlass-operator-of-{home.name}"
        """Its role's name where it serves: another account may serve there, too."""
        self._subjects = [{"kind": "ServiceAccount", "name": "windlass-operator", "namespace": home.name}]
        home.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "windlass-operator"}})
        self._role(home, "windlass-operator-own", RIGHTS["own"])
        name = f"windlass-operator-{home.name}"
        self._apply_cluster("ClusterRole", name, {"rules": RIGHTS["cluster"]})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        self._apply_cluster("ClusterRoleBinding", name, {"roleRef": role, "subjects": self._subjects})
        admin = yaml.safe_load(home.cluster.kubectl("config", "view", "--raw", "--minify"))
        token = home.kubectl("create", "token", "windlass-operator", "--duration=2h").strip()
        config = {**admin, "users": [{"name": admin["users"][0]["name"], "user": {"token": token}}]}
        self.file.write_text(yaml.safe_dump(config))

    def serve(self, namespace: Namespace) -> None:
        """Lets it serve a namespace."""
        self._role(namespace, self._serving, RIGHTS["served"])

    def leave(self, namespace: Namespace) -> None:
        """Takes that away."""
        namespace.kubectl("delete", "rolebinding", self._serving)

    def leave_the_cluster(self) -> None:
        """Takes away what it may outside of namespaces."""
        self.close()

    def close(self) -> None:
        name = f"windlass-operator-{self.home.name}"
        self.home.cluster.kubectl("delete", "clusterrole,clusterrolebinding", name, "--ignore-not-found")

    def _role(self, namespace: Namespace, name: str, rules: list[dict[str, Any]]) -> None:
        api = "rbac.authorization.k8s.io"
        namespace.apply(
            {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules},
            {
                "apiVersion": f"{api}/v1",
                "kind": "RoleBinding",
                "metadata": {"name": name},
                "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
                "subjects": self._subjects,
            },
        )

    def _apply_cluster(self, kind: str, name: str, content: dict[str, Any]) -> None:
        value = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, **content}
        self.home.cluster.kubectl("apply", "-f", "-", given=json.dumps(value))


class Operator:
    """One process of the command."""

    def __init__(
        self,
        account: Account,
        folder: Path,
        number: int,
        flags: tuple[str, ...],
        program: tuple[str, ...] = ("-m", "windlass_operator.main"),
    ) -> None:
        self.log_file = folder / f"operator-{number}.log"
        arguments = ["kubernetes", "--port", "0", "--metrics-port", "0", "--log-level", "debug"]
        arguments += [
            "--own-namespace",
            account.home.name,
            "--control-name",
            "127.0.0.1",
            "--pod",
            f"op-{number}",
            *flags,
        ]
        environment = {**os.environ, "KUBECONFIG": str(account.file)}
        with self.log_file.open("ab") as file:
            self.process = subprocess.Popen([sys.executable, *program, *arguments], stderr=file, env=environment)

    @property
    def logs(self) -> list[dict[str, Any]]:
        text = self.log_file.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def said(self, event: str, **fields: Any) -> dict[str, Any] | None:
        """The first line of the log that says this."""
        matching = (
            line
            for line in self.logs
            if line.get("event") == event and all(line.get(key) == value for key, value in fields.items())
        )
        return next(matching, None)

    def await_said(self, event: str, **fields: Any) -> dict[str, Any]:
        def look() -> Any:
            found = self.said(event, **fields)
            assert found or self.process.poll() is None, self.log_file.read_text()[-4000:]
            return found

        return wait_until(look, lambda: self.log_file.read_text()[-4000:])

    @property
    def url(self) -> str | None:
        said = self.said("operator.listening", endpoint="control endpoint")
        return said["url"] if said and self.process.poll() is None else None

    @property
    def acting(self) -> bool:
        return self.process.poll() is None and self.health("/readyz")[0] == 200

    def health(self, path: str) -> tuple[int, str]:
        said = self.await_said("operator.listening", endpoint="metrics endpoint")
        try:
            with urllib.request.urlopen(said["url"] + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metric(self, start: str) -> float:
        """The sum of all series that begin so."""
        _, text = self.health("/metrics")
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start))

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE)


class Stage:
    """What a test plays with: operators, servers' Pods, ModelVersions. All of it ends with the test."""

    def __init__(self, namespace: Namespace, account: Account, folder: Path) -> None:
        self.namespace, self.account, self._folder = namespace, account, folder
        self.operators: list[Operator] = []
        self.replicas: dict[str, Replica] = {}
        self._lines: list[CutLine] = []
        self._url = Remembered(self.url, 0.3)
        self._trusted = Remembered(self.trusted, 5.0)

    def operator(self, *flags: str) -> Operator:
        flags = flags or ("--namespace", self.namespace.name)
        self.operators.append(Operator(self.account, self._folder, len(self.operators), flags))
        return self.operators[-1]

    def dying_operator(self, number: int, when: str) -> Operator:
        """One that kills itself before or after its write of that number."""
        return self._other_operator("dying_operator.py", str(number), when)

    def losing_operator(self) -> Operator:
        """One that loses its watch of ModelVersions at SIGUSR1."""
        return self._other_operator("losing_operator.py")

    def shifted_operator(self, seconds: float) -> Operator:
        """One whose clock is so far ahead."""
        return self._other_operator("shifted_operator.py", str(seconds))

    def _other_operator(self, program: str, *arguments: str) -> Operator:
        command = (str(Path(__file__).with_name(program)), *arguments)
        flags = ("--namespace", self.namespace.name)
        self.operators.append(Operator(self.account, self._folder, len(self.operators), flags, command))
        return self.operators[-1]

    def cut_line(self) -> CutLine:
        """What operators that are started from now on reach the API server by."""
        config = yaml.safe_load(self.account.file.read_text())
        address = urllib.parse.urlsplit(config["clusters"][0]["cluster"]["server"])
        line = CutLine(address.hostname or "", address.port or 443)
        self._lines.append(line)
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{line.port}"
        self.account.file.write_text(yaml.safe_dump(config))
        return line

    def url(self) -> str | None:
        """Where the Service would lead: to the operator that is ready."""
        return next((each.url for each in reversed(self.operators) if each.url and each.acting), None)

    def replica(self, name: str = "r1", server: str = "cats", *, ready: bool = True) -> Replica:
        """A Pod of the server, and who speaks for it."""
        self.pod(name, server, ready=ready)
        token = self.token(name)
        replica = Replica(name, self._url, lambda: token, server, self._trusted)
        self.replicas[name] = replica
        return replica

    def pod(self, name: str, server: str | None = "cats", *, ready: bool = True) -> None:
        labels = {"windlass.dev/server": server} if server else {}
        spec = {"schedulerName": "nobody", "containers": [{"name": "server", "image": "none"}]}
        self.namespace.apply(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
        )
        self.set_ready(name, ready=ready)

    def set_ready(self, name: str, *, ready: bool) -> None:
        conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": "2030-01-01T00:00:00Z"}]
        patch = json.dumps({"status": {"phase": "Running", "conditions": conditions}})
        self.namespace.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def token(self, pod: str, audience: str = "windlass-operator") -> str:
        bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}")
        return self.namespace.kubectl("create", "token", "default", f"--audience={audience}", *bound).strip()

    def trusted(self) -> ssl.SSLContext:
        """What a replica trusts: the CA in its namespace. Raises `OSError` while there is none."""
        try:
            text = self.namespace.get("configmap", "windlass-operator-ca")["data"]["ca.crt"]
        except CommandError as error:
            raise OSError(str(error)) from error
        return ssl.create_default_context(cadata=text)

    def apply(self, name: str, version: int, *, server: str = "cats", **spec: Any) -> None:
        self.namespace.apply(self.model_version(name, version, server=server, **spec))

    def model_version(self, name: str, version: int, *, server: str = "cats", **spec: Any) -> dict[str, Any]:
        artifact = {"uri": "volume://m", "digest": digest(f"files of {version}")}
        return {
            "apiVersion": "windlass.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": name},
            "spec": {"server": server, "model": "m", "version": version, "artifact": artifact, **spec},
        }

    def decide(self, name: str, action: str, version: int, number: int = 1, **fields: Any) -> None:
        spec = {"id": f"d{number}", "action": action, "server": "cats", "model": "m", "version": version}
        spec |= {"digest": digest(f"files of {version}"), "at": f"2030-01-01T00:00:{number:02}Z", **fields}
        self.namespace.kubectl("annotate", "mv", name, f"decisions.windlass.dev/d{number}={json.dumps(spec)}")

    def durable(self, server: str = "cats") -> dict[str, Any]:
        """Plan and record; empty: there is no object."""
        try:
            value = self.namespace.get("configmap", f"{server}-windlass-plan")
        except CommandError:
            return {}
        state: dict[str, Any] = json.loads(value["data"]["state.json"])
        return state

    def durable_readable(self) -> bool:
        """Whether there is an object, with something that can be read."""
        try:
            return bool(self.durable())
        except (KeyError, ValueError):
            return False

    def committed(self, server: str = "cats") -> int | None:
        return ((self.durable(server).get("plan") or {}).get("models", {}).get("m") or {}).get("committed")

    def status(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = self.namespace.get("mv", name).get("status") or {}
        return value

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        return next((each for each in self.status(name).get("conditions", []) if each["type"] == kind), {})

    def events(self) -> list[tuple[str, str]]:
        items = self.namespace.all_of("events.events.k8s.io")
        return [(each["regarding"]["name"], each["reason"]) for each in items]

    def await_committed(self, version: int) -> None:
        wait_until(lambda: self.committed() == version, self.seen)

    def await_phase(self, name: str, phase: str) -> None:
        wait_until(lambda: self.status(name).get("phase") == phase, self.seen)

    def seen(self) -> Any:
        logs = [each.log_file.read_text()[-3000:] for each in self.operators]
        refusals = {name: replica.refusal for name, replica in self.replicas.items()}
        return self.durable(), refusals, logs

    def close(self) -> None:
        for replica in self.replicas.values():
            replica.stop()
        for operator in self.operators:
            operator.process.send_signal(signal.SIGCONT)
            operator.stop(signal.SIGKILL)
        for line in self._lines:
            line.close()


class Remembered:
    """Asks again after a while only: replicas ask many times a second."""

    def __init__(self, ask: Callable[[], Any], seconds: float) -> None:
        self._ask, self._seconds = ask, seconds
        self._at, self._value = 0.0, None

    def __call__(self) -> Any:
        if time.monotonic() - self._at > self._seconds:
            self._value = self._ask()
            self._at = time.monotonic()
        return self._value


@pytest.fixture
def stage(namespace: Namespace, crd: None, tmp_path: Path) -> Iterator[Stage]:
    account = Account(namespace, tmp_path)
    account.serve(namespace)
    stage = Stage(namespace, account, tmp_path)
    try:
        yield stage
    finally:
        stage.close()
        account.close()
