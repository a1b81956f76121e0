"""Windlass from the checkout's own files, in a folder of its own: as a Compose project, or as a stack on a Swarm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml
from image_kit import Images
from windlass_lab.errors import CommandError
from windlass_lab.testing.docker import DockerEngine, keep
from windlass_lab.testing.waiting import until

from windlass_contract.artifact import read_manifest
from windlass_testing.load import Load, Request
from windlass_testing.models import affine
from windlass_testing.one_machine import free_port
from windlass_testing.pages import ROOT

FILES = ("docker-compose.yml", "docker-compose.dev.yml", "docker")
OBSERVER = (Path(__file__).parent / "observer.py").read_text()
PYTHON = "/opt/windlass/bin/python3"
"""In our images."""
EVERY = 0.02
"""Seconds between two questions to a replica."""


def right(body: Any, version: str) -> str:
    """Version v answers (v + 1) x."""
    expected, found = float(version) + 1, body["predictions"][0][0]
    return "" if found == expected else f"version {version} answered {found} instead of {expected}"


@dataclass
class Deployment:
    """What Compose and a Swarm have in common: a folder, a model (version v answers (v + 1) x), and questions."""

    engine: DockerEngine
    images: Images
    name: str
    folder: Path
    model: str = "line"
    server: str = "shop"
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        for each in FILES:
            source = ROOT / each
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, self.folder / each)
        for each in ("models", "model-versions"):
            (self.folder / each).mkdir()
        settings = {
            "WINDLASS_SERVER": self.server,
            "WINDLASS_VERSION": self.images.server.rpartition(":")[2],
            "WINDLASS_PUBLISH": self.published,
            "WINDLASS_SERVER_MEMORY": "3g",
        }
        (self.folder / ".env").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        self.run("docker/make-secrets")

    @property
    def published(self) -> str:
        """What `WINDLASS_PUBLISH` is set to."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Of the front."""
        return f"http://127.0.0.1:{self.port}"

    def run(self, command: str, timeout: float = 300, **variables: str) -> str:
        """A command of a shell in the folder; gives its output. Raises `CommandError`."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
        environment |= self.engine.environment | variables
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            raise CommandError(["bash", "-c", command], done.returncode, done.stdout + done.stderr)
        return done.stdout + done.stderr

    # --- containers ---

    def filters(self, service: str) -> list[str]:
        """`docker ps` filters that find a service's containers."""
        raise NotImplementedError

    def containers(self, service: str) -> list[str]:
        """The running containers of a service."""
        filters = [word for each in self.filters(service) for word in ("--filter", each)]
        return self.engine("ps", "--quiet", "--no-trunc", *filters).split()

    def container(self, service: str) -> str:
        """The one running container of a service."""
        (found,) = self.containers(service)
        return found

    def health(self, service: str) -> list[str]:
        """The health of each running container."""
        return [self.engine.inspect(each)["State"]["Health"]["Status"] for each in self.containers(service)]

    def execute(self, service: str, *command: str) -> str:
        """A command in the service's first container."""
        return self.engine("exec", self.containers(service)[0], *command)

    def wait_until_healthy(self, replicas: int, timeout: float = 240) -> None:
        """Waits until everything is there and healthy."""
        wanted = {"server": replicas, "operator": 1, "postgres": 1, "front": 1}

        def healthy() -> bool:
            return all(self.health(service) == ["healthy"] * count for service, count in wanted.items())

        until(f"all of {self.name} is healthy", healthy, timeout)

    def kill(self, container: str) -> float:
        """SIGKILL for its first process, from outside: what an engine takes for a crash.

        Gives when the container had ended, by the monotonic clock: until then its processes are on their way out, and
        the kernel still takes connections for them.
        """
        began = datetime.now(UTC)
        pid = self.engine.inspect(container)["State"]["Pid"]
        image = self.engine.inspect(self.container("operator"))["Image"]
        privileged = ("--privileged", "--pid=host", "--user=0", "--network=none", f"--entrypoint={PYTHON}")
        self.engine("run", "--rm", *privileged, image, "-c", f"import os; os.kill({pid}, 9)")

        def finished() -> datetime:
            return datetime.fromisoformat(self.engine.inspect(container)["State"]["FinishedAt"][:19] + "+00:00")

        until("the container has ended", lambda: finished() >= began.replace(microsecond=0))
        exact = self.engine.inspect(container)["State"]["FinishedAt"][:26].rstrip("Z")
        return datetime.fromisoformat(f"{exact}+00:00").timestamp() - time.time() + time.monotonic()

    # --- ModelVersions ---

    def version_name(self, version: int) -> str:
        """Of a version's ModelVersion."""
        return f"{self.model}-{version}"

    def roll(self, version: int, **spec: Any) -> str:
        """Packs a version that wasn't there and applies it, as `mv` does; gives the ModelVersion's name."""
        folder = affine(self.folder / "models", self.model, version, version + 1.0, 0.0)
        # Containers run as another user; `windlass pack` leaves files that everyone can read.
        self.run(f"chmod -R a+rX {folder.parent}")
        return self.apply(self.model, version, {"uri": "volume://", "digest": read_manifest(folder).digest}, **spec)

    def apply(self, model: str, version: int, artifact: dict[str, str], **spec: Any) -> str:
        """Applies a ModelVersion and gives its name."""
        name = f"{model}-{version}"
        document = {
            "apiVersion": "windlass.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": name},
            "spec": {"server": self.server, "model": model, "version": version, "artifact": artifact, **spec},
        }
        part = self.folder / "model-versions" / f".{name}.part"
        part.write_text(yaml.safe_dump(document))
        part.replace(part.with_name(f"{name}.yaml"))
        return name

    def status(self, name: str) -> dict[str, Any]:
        """What the operator says of a ModelVersion; empty when it says nothing yet."""
        try:
            text = self.execute("operator", "cat", f"/var/lib/windlass/operator/status/{name}.yaml")
        except CommandError:
            return {}
        return (yaml.safe_load(text) or {}).get("status", {})

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """One condition of a ModelVersion; empty when there is none."""
        return next((each for each in self.status(name).get("conditions", []) if each["type"] == kind), {})

    def wait_for_phase(self, name: str, phase: str, timeout: float = 240) -> dict[str, Any]:
        """Waits for a phase, and gives the status."""
        seen: dict[str, Any] = {}

        def reached() -> bool:
            seen.clear()
            seen.update(self.status(name))
            return seen.get("phase") == phase

        try:
            until(f"{name} is {phase}", reached, timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its status: {seen}") from error
        return seen

    def serve(self, version: int) -> None:
        """Rolls a version out and waits until it serves."""
        self.wait_for_phase(self.roll(version), "Serving")

    # --- clients ---

    def load(self, rate: float = 30) -> Load:
        """Constant load on the front; each answer is checked."""
        path, body = f"/v1/models/{self.model}:predict", {"instances": [[1.0]]}
        return Load(self.url, [Request(path, body, right)], rate)

    def answer(self) -> str:
        """The version that answers by default, through the front."""
        response = httpx.post(f"{self.url}/v1/models/{self.model}:predict", json={"instances": [[1.0]]}, timeout=30)
        response.raise_for_status()
        return response.headers["X-Model-Version"]

    @contextmanager
    def observed(self) -> Iterator[Observed]:
        """Asks each replica by its address all the time."""
        question = ("server", "8000", f"/v1/models/{self.model}:predict", '{"instances": [[1.0]]}', str(EVERY))
        command = ["docker", "exec", "--interactive", self.container("operator"), PYTHON, "-c"]
        process = subprocess.Popen(
            [*command, OBSERVER, *question],
            env=os.environ | self.engine.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        observed = Observed()
        reader = threading.Thread(target=observed.read, args=(process.stdout,))
        reader.start()
        try:
            yield observed
        finally:
            process.stdin.close()
            reader.join(60)
            process.wait(60)
            process.stdout.close()

    # --- when a test fails ---

    def evidence(self, folder: Path) -> None:
        """Keeps what helps to understand a failure."""
        for service in ("server", "operator", "front", "postgres"):
            filters = [word for each in self.filters(service) for word in ("--filter", each)]
            for number, each in enumerate(self.engine("ps", "--all", "--quiet", *filters).split()):
                place = folder / f"{service}-{number}"
                keep(place.with_suffix(".log"), partial(self._log, each))
                keep(place.with_suffix(".json"), lambda each=each: json.dumps(self.engine.inspect(each), indent=1))

    def _log(self, container: str) -> str:
        return self.run(f"docker logs --timestamps {container} 2>&1 | tail -n 2000")


@dataclass(frozen=True)
class Seen:
    """One answer of one replica. Times by the monotonic clock, which containers share with their machine."""

    address: str
    sent: float
    done: float
    status: int
    version: str
    epoch: str


class Observed:
    """What the observer saw."""

    def __init__(self) -> None:
        self.answers: list[Seen] = []

    def read(self, lines: Any) -> None:
        """Takes the observer's lines until they end."""
        for line in lines:
            self.answers.append(Seen(**json.loads(line)))

    def addresses(self) -> set[str]:
        """Of replicas that answered."""
        return {each.address for each in self.answers if each.status == 200}

    def answered_with(self, version: int) -> set[str]:
        """The addresses that answered with this version."""
        return {each.address for each in self.answers if each.version == str(version)}

    def differed(self, version: int) -> float:
        """Seconds from the first answer with this version, of any replica, to the last one with an older version."""
        first = min(each.done for each in self.answers if each.version == str(version))
        older = [each.done for each in self.answers if each.version and int(each.version) < version]
        return max(0.0, max(older) - first)

    def wait_for(self, what: str, condition: Callable[[list[Seen]], bool], timeout: float = 90) -> None:
        """Waits until what was seen is so."""
        until(what, lambda: condition(list(self.answers)), timeout, 0.05)


class ComposeDeployment(Deployment):
    """A Compose project."""

    def filters(self, service: str) -> list[str]:
        return [f"label=com.docker.compose.project={self.name}", f"label=com.docker.compose.service={service}"]

    def compose(self, arguments: str, timeout: float = 300) -> str:
        """`docker compose …`, as people type it."""
        return self.run(f"docker compose {arguments}", timeout, COMPOSE_PROJECT_NAME=self.name)

    def up(self, replicas: int) -> None:
        """So many replicas, all healthy."""
        self.compose(f"up --detach --wait --no-build --no-recreate --scale server={replicas}", 600)

    def down(self) -> None:
        """Takes all of it away."""
        self.compose("--profile tools --profile fetcher down --volumes --remove-orphans --timeout 1")


class SwarmDeployment(Deployment):
    """A stack on a Swarm of one node."""

    @property
    def published(self) -> str:
        return str(self.port)  # a Swarm knows no address here

    def filters(self, service: str) -> list[str]:
        return [f"label=com.docker.swarm.service.name={self.name}_{service}"]

    def deploy(self, more: str = "", **variables: str) -> None:
        """As docs/swarm.md has it; `more`: a file that is merged, too."""
        deploy = f"docker stack deploy --detach=true --resolve-image=never --compose-file - {self.name}"
        self.run(f"docker/swarm/merge {f'--file {more}' if more else ''} | {deploy}", STACK=self.name, **variables)

    def service(self, service: str) -> dict[str, Any]:
        """What the Swarm keeps of a service: its specification, and how the last update went."""
        found: dict[str, Any] = self.engine.inspect(f"{self.name}_{service}")
        return found

    def update_state(self, service: str) -> str:
        """How the service's last update went."""
        return str((self.service(service).get("UpdateStatus") or {}).get("State", ""))

    def remove(self) -> None:
        """Takes all of it away, volumes included."""
        self.engine("stack", "rm", self.name)
        of_stack = f"label=com.docker.stack.namespace={self.name}"
        until("the stack's containers are gone", lambda: not self.engine("ps", "-aq", "--filter", of_stack).strip())
        until(
            "the stack's networks are gone",
            lambda: not self.engine("network", "ls", "-q", "--filter", of_stack).strip(),
        )
        for volume in self.engine("volume", "ls", "--quiet", "--filter", f"name={self.name}_").split():
            self.engine("volume", "rm", volume)
