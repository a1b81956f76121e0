"""The README's way to three replicas, and the commands of docs/compose.md and docs/swarm.md as written, in a clone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from checkout import copy_checkout
from windlass_lab.testing.docker import DockerEngine, Swarm
from windlass_lab.testing.waiting import until

from windlass_testing.one_machine import free_port
from windlass_testing.pages import ROOT, commands

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.default_ports, pytest.mark.timeout(1500)]

SECTION = "Three replicas with Docker Compose"
COMPOSE, SWARM = ROOT / "docs" / "compose.md", ROOT / "docs" / "swarm.md"


class Clone:
    """The checkout's files in a folder of their own, and a shell there. Only the published port isn't the pages'."""

    def __init__(self, engine: DockerEngine, folder: Path) -> None:
        self.engine, self.folder, self.port = engine, folder, free_port()
        copy_checkout(folder)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
        self.environment = environment | engine.environment | {"WINDLASS_PUBLISH": str(self.port)}

    def run(self, command: str, timeout: float = 900) -> str:
        """One command of a page; gives its output. The command has to succeed."""
        with subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command.replace("localhost:8000", f"localhost:{self.port}")],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGTERM)  # with what it started
                raise
        assert process.returncode == 0, f"$ {command}\n{said[-6000:]}"
        return said

    def version(self) -> str:
        """The version that answers."""
        body = (self.folder / "demo" / "request.json").read_bytes()
        answer = httpx.post(f"http://localhost:{self.port}/v1/models/digits:predict", content=body, timeout=30)
        answer.raise_for_status()
        return answer.headers["X-Model-Version"]

    def answers_with(self, version: str) -> bool:
        """Whether this version answers; False also when nobody does."""
        try:
            return self.version() == version
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="module")
def clone(docker_engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone, with whatever the tests start in it gone afterwards."""
    clone = Clone(docker_engine, tmp_path_factory.mktemp("clone"))
    running = clone.engine("ps", "--quiet", "--filter", "label=com.docker.compose.project=windlass").split()
    assert not running, "a project called windlass runs on this engine: the pages would touch it"
    yield clone
    if (clone.folder / "secrets").exists():
        clone.run("docker compose --profile tools down --volumes --remove-orphans --timeout 1")


def test_a_new_user_has_three_replicas_with_a_second_version_in_less_than_ten_commands(clone: Clone) -> None:
    typed = commands(ROOT / "README.md", SECTION)
    assert len(typed) < 10
    for command in typed:
        clone.run(command)
    assert clone.version() == "2"
    replicas = clone.run("docker compose ps --quiet server").split()
    assert len(replicas) == 3
    assert {clone.engine.inspect(each)["RestartCount"] for each in replicas} == {0}


def test_the_page_begins_as_the_readme_does_and_its_other_commands_work_as_written(clone: Clone) -> None:
    typed, begun = commands(COMPOSE), commands(ROOT / "README.md", SECTION)
    assert typed[: len(begun)] == begun
    development = commands(COMPOSE, "Work on Windlass itself")
    for command in typed[len(begun) :]:
        if command not in development:
            said = clone.run(command)
            if "psql" in command:
                assert "digits" in said, "the predictions are rows"
    assert clone.version() == "1", "the page undid version 2"
    assert len(clone.run("docker compose ps --quiet server").split()) == 2, "and went down to two replicas"


def test_the_override_for_development_restarts_a_replica_when_its_code_changes(clone: Clone) -> None:
    (command,) = commands(COMPOSE, "Work on Windlass itself")
    output = clone.folder / "watch.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=clone.folder,
            env=clone.environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        until("it watches", lambda: "atch enabled" in output.read_text(errors="replace"), 300)
        source = clone.folder / "app" / "src" / "windlass_server" / "main.py"
        source.write_text(source.read_text().replace('log.info("starting"', 'log.info("starting edited"'))
        # Asked for: `up` shows no more of a container that it was about to attach to when it was restarted.
        until("the edited code runs", lambda: "starting edited" in clone.run("docker compose logs server"), 120)
    except TimeoutError as error:
        raise AssertionError(output.read_text(errors="replace")[-4000:]) from error
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)


def test_every_command_of_the_swarm_page_works_as_written(clone: Clone, swarm: Swarm) -> None:
    clone.run("docker compose --profile tools down --volumes --remove-orphans --timeout 1")
    for file in (clone.folder / "model-versions").glob("*.yaml"):
        file.unlink()
    swarm.stacks.append("windlass")
    for command in commands(SWARM):
        if command.endswith(" get"):
            until("version 1 answers", lambda: clone.answers_with("1"), 240)
            assert "digits-1" in clone.run(command)
        else:
            clone.run(command)
    assert len(swarm.running("windlass_server")) == 3
    clone.run("cp demo/digits-2.yaml model-versions/")
    until("version 2 answers", lambda: clone.answers_with("2"), 240)
    swarm.remove_stacks()
    volumes = clone.engine("volume", "ls", "--quiet", "--filter", "name=windlass_").split()
    until("its volumes are free", lambda: clone.engine("volume", "rm", *volumes))
