"""The Docker Engine, Compose projects and a Swarm for tests."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from windlass_lab.commands import run
from windlass_lab.errors import CommandError, LabError
from windlass_lab.testing.standing import StandingLab
from windlass_lab.testing.waiting import until


class DockerEngine:
    """The lab's Docker Engine."""

    def __init__(self, lab: StandingLab) -> None:
        self.lab = lab
        self.environment = lab.environment

    def __call__(self, *arguments: str | Path, given: str | None = None, timeout: float = 300) -> str:
        """`docker …`; gives its standard output. Raises `CommandError`."""
        return run("docker", *arguments, environment=self.environment, given=given, timeout=timeout)

    def build(self, tag: str, folder: Path, *options: str, timeout: float = 1200) -> str:
        """Builds an image with BuildKit such that kind can load it (no attestations); gives what the build wrote."""
        command = ["docker", "build", "--progress=plain", "--provenance=false", f"--tag={tag}", *options, str(folder)]
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, timeout=timeout, check=False, text=True
        )
        if done.returncode != 0:
            raise CommandError(command, done.returncode, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def image_id(self, image: str) -> str:
        """The id of an image that is there."""
        return self("image", "inspect", "--format", "{{.Id}}", image).strip()

    def inspect(self, thing: str) -> dict[str, Any]:
        """A container, image, network or volume as JSON."""
        described: dict[str, Any] = json.loads(self("inspect", thing))[0]
        return described


class ComposeProject:
    """One Compose project of a test, with a folder and a name of its own; taken down after it with its volumes."""

    def __init__(self, engine: DockerEngine, name: str, folder: Path) -> None:
        self.engine, self.name, self.folder = engine, name, folder

    def write(self, **files: str) -> None:
        """Writes files into the project's folder; `compose_yaml=…` becomes compose.yaml."""
        for file, content in files.items():
            (self.folder / file.replace("_yaml", ".yaml")).write_text(content, encoding="utf-8")

    def __call__(self, *arguments: str, timeout: float = 300) -> str:
        """`docker compose …` on this project."""
        return self.engine(
            "compose", "--project-name", self.name, "--project-directory", self.folder, *arguments, timeout=timeout
        )

    def up(self, *options: str, timeout: float = 300) -> None:
        """`up --detach --wait`: back when all is running or healthy."""
        self("up", "--detach", "--wait", *options, timeout=timeout)

    def containers(self) -> dict[str, dict[str, Any]]:
        """The inspected containers by service; of several, the last."""
        ids = self("ps", "--all", "--quiet").split()
        described = [self.engine.inspect(container) for container in ids]
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in described}

    def evidence(self, folder: Path) -> None:
        """Keeps what helps to understand a failure."""
        keep(folder / "compose-ps.txt", partial(self, "ps", "--all"))
        keep(folder / "compose-logs.txt", partial(self, "logs", "--timestamps", "--no-color"))
        keep(folder / "compose-config.yaml", partial(self, "config"))
        keep(folder / "compose-containers.json", lambda: json.dumps(self.containers(), indent=1))

    def down(self) -> None:
        """Takes all of it away."""
        self("down", "--volumes", "--remove-orphans", "--timeout", "1")


class Swarm:
    """A one-node Swarm on the lab's engine, for stacks. `initialised`: it was made here, so it may be left."""

    def __init__(self, engine: DockerEngine, *, initialised: bool) -> None:
        self.engine, self.initialised = engine, initialised
        self.stacks: list[str] = []

    def deploy(self, stack: str, compose: str, folder: Path) -> None:
        """`docker stack deploy` of a Compose text."""
        file = folder / f"{stack}.yaml"
        file.write_text(compose, encoding="utf-8")
        if stack not in self.stacks:
            self.stacks.append(stack)
        self.engine("stack", "deploy", "--detach=true", "--compose-file", file, stack)

    def tasks(self, service: str) -> list[dict[str, str]]:
        """The tasks of a service, newest first, with their DesiredState, CurrentState, Image and Error."""
        lines = self.engine("service", "ps", "--no-trunc", "--format", "{{json .}}", service).splitlines()
        return [json.loads(line) for line in lines]

    def running(self, service: str) -> list[dict[str, str]]:
        """Its tasks that run and shall run."""
        return [
            task
            for task in self.tasks(service)
            if task["DesiredState"] == "Running" and task["CurrentState"].startswith("Running")
        ]

    def update_state(self, service: str) -> str:
        """How its last update went: "updating", "completed", "rollback_completed", …; "" when there was none."""
        return str((self.engine.inspect(service).get("UpdateStatus") or {}).get("State", ""))

    def evidence(self, folder: Path) -> None:
        """Keeps what helps to understand a failure."""
        for stack in self.stacks:
            for name in self.engine("stack", "services", "--format", "{{.Name}}", stack).split():
                tasks, logs = ("ps", "--no-trunc", name), ("logs", "--timestamps", "--no-trunc", name)
                keep(folder / f"swarm-{name}-tasks.txt", partial(self.engine, "service", *tasks))
                keep(folder / f"swarm-{name}-logs.txt", partial(self.engine, "service", *logs, timeout=30))

    def remove_stacks(self) -> None:
        """Removes the stacks and waits until their containers are gone."""
        for stack in self.stacks:
            self.engine("stack", "rm", stack)
            until(f"the containers of {stack} are gone", partial(self._none_of, stack))
        self.stacks.clear()

    def leave(self) -> None:
        """Removes the stacks, and the Swarm if it was made for them."""
        self.remove_stacks()
        if self.initialised:
            self.engine("swarm", "leave", "--force")

    def _none_of(self, stack: str) -> bool:
        of_stack = f"label=com.docker.stack.namespace={stack}"
        return not self.engine("ps", "--all", "--quiet", "--filter", of_stack).strip()


def start_swarm(engine: DockerEngine) -> Swarm:
    """Makes the lab's own engine a Swarm of one node.

    Raises `LabError` on anybody else's engine, unless LAB_ALLOW_ENGINE names it and it is in no Swarm.
    """
    lab = engine.lab
    if not lab.made_engine and not lab.allowed_by_name:
        raise LabError(
            f"making {lab.engine.name!r} a Swarm changes an engine that the lab didn't make; "
            f"LAB_ALLOW_ENGINE={lab.engine.name} lets the tests do it"
        )
    state = engine("info", "--format", "{{.Swarm.LocalNodeState}}").strip()
    if state != "inactive" and not lab.made_engine:
        raise LabError(
            f"the engine {lab.engine.name!r} is in a Swarm already ({state}), which the tests would change; "
            "leave it first"
        )
    if state != "active":
        engine("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377")
    # An engine that leaves a Swarm forgets the names of all containers (moby 2.0.0-beta.24), so that a kind node that
    # is started anew finds no other. The lab's own engine stays a Swarm of one node.
    return Swarm(engine, initialised=state != "active" and not lab.made_engine)


def keep(file: Path, text: Callable[[], str]) -> None:
    """Writes what `text()` gives to a file, or the error that it raised: collecting never hides the failure."""
    try:
        content = text()
    except (LabError, OSError, ValueError, KeyError) as error:
        content = f"couldn't be had: {error}"
    file.write_text(content, encoding="utf-8")
