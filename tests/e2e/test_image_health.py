"""HEALTHCHECK as the engine sees it: each case of what healthy means."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from image_kit import HARDENED, Container, Images, readable, running, shared_folder
from windlass_lab.testing.docker import DockerEngine
from windlass_lab.testing.waiting import until

from windlass_contract.artifact import read_manifest
from windlass_testing.evidence import measured
from windlass_testing.models import affine_tflite
from windlass_testing.one_machine import OneMachine

pytestmark = pytest.mark.lab

STATE = "--tmpfs=/var/lib/windlass/server:mode=1777"
IMPATIENT = ("--health-start-period=3s", "--health-interval=1s", "--health-timeout=3s", "--health-retries=2")
"""The image's own numbers wait for the longest load."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with models/ and versions/ that containers get at."""
    folder = shared_folder()
    for name in ("models", "versions", "state"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def network(docker_engine: DockerEngine) -> Iterator[str]:
    """A network on which containers find each other by name."""
    name = f"windlass-image-{secrets.token_hex(4)}"
    docker_engine("network", "create", name)
    yield name
    docker_engine("network", "rm", name)


def _at(said: str) -> datetime:
    """A time as the engine says it, with this or that offset."""
    return datetime.fromisoformat(said)


def _statuses(container: Container) -> list[str]:
    """What /health said at each check that got an answer."""
    bodies = [each["Output"].partition(" ")[2] for each in container.health_log]
    return [json.loads(body)["status"] for body in bodies if body.startswith("{")]


def test_it_is_starting_and_then_healthy_within_a_check_of_being_ready(
    docker_engine: DockerEngine, made_images: Images, place: Path
) -> None:
    options = (*HARDENED, STATE, f"--volume={place}/models:/models:ro")
    with running(docker_engine, made_images.litert, options=options) as container:
        assert container.health == "starting"
        until("it was asked while it had no model", lambda: "starting" in _statuses(container))
        assert container.health == "starting", "a failure in the start period doesn't count"
        affine_tflite(place / "models", "m", 1, 2.0, 0.0)
        readable(place / "models")
        container.wait_for_health("healthy")
        assert _statuses(container)[-1] == "ok"


def test_without_an_operator_and_a_plan_it_is_unhealthy_after_the_start_period(
    docker_engine: DockerEngine, made_images: Images, place: Path
) -> None:
    (place / "token").write_text("a-token-that-nobody-knows\n")
    (place / "token").chmod(0o444)
    options = (*HARDENED, STATE, *IMPATIENT, f"--volume={place}:/place:ro", f"--volume={place}/models:/models:ro")
    arguments = ("--server=one", "--operator=http://127.0.0.1:9", "--control-token-file=/place/token")
    with running(docker_engine, made_images.litert, *arguments, options=options) as container:
        container.wait_for_health("unhealthy")
        until("it says so itself", lambda: "starting" in _statuses(container))
        assert "operator" in next(each["Output"] for each in container.health_log if each["Output"].startswith("503"))
        assert container.health == "unhealthy"


def test_a_process_that_is_stuck_is_unhealthy(docker_engine: DockerEngine, made_images: Images, place: Path) -> None:
    affine_tflite(place / "models", "m", 1, 2.0, 0.0)
    readable(place / "models")
    options = (*HARDENED, STATE, *IMPATIENT, f"--volume={place}/models:/models:ro")
    with running(docker_engine, made_images.litert, options=options) as container:
        container.wait_for_health("healthy")
        stop = (
            "import os, signal, pathlib\n"
            "for each in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
            "    if each.read_bytes().startswith(b'/opt/windlass/bin/python\\0/opt/windlass/bin/windlass-server'):\n"
            "        os.kill(int(each.parent.name), signal.SIGSTOP)\n"
        )
        docker_engine("exec", container.name, "python", "-c", stop)
        container.wait_for_health("unhealthy")
        assert re.search("timed out|exceeded timeout", container.health_log[-1]["Output"])


def test_through_a_rollout_it_stays_healthy_whatever_the_candidate_does(
    docker_engine: DockerEngine, made_images: Images, place: Path, network: str
) -> None:
    """Told that there is no plan, serving, a candidate that fails, the operator gone: healthy each time."""
    versions = OneMachine(place / "host")
    versions.directory = place / "versions"
    versions.state = place / "state"
    operator_options = (
        *(*HARDENED, "--user=0:0", f"--network={network}", "--network-alias=operator"),
        *(f"--volume={place}/versions:/versions:ro", f"--volume={place}/state:/var/lib/windlass/operator"),
    )
    operator_arguments = ("directory", "/versions", "--state=/var/lib/windlass/operator", "--server=one")
    options = (
        *(*HARDENED, "--user=0:0", STATE, f"--network={network}", f"--volume={place}/models:/models:ro"),
        f"--volume={place}/state/tokens:/tokens:ro",
    )
    arguments = ("--server=one", "--operator=http://operator:8010", "--control-token-file=/tokens/one")
    with running(docker_engine, made_images.operator, *operator_arguments, options=operator_options) as operator:
        until("the operator made the control token", (place / "state" / "tokens" / "one").exists)
        with running(docker_engine, made_images.litert, *arguments, options=options) as container:
            container.wait_for_health("healthy")
            assert json.loads(container.health_log[-1]["Output"].partition(" ")[2])["model"] == "none"

            good = read_manifest(affine_tflite(place / "models", "m", 1, 2.0, 0.0)).digest
            versions.apply(versions.document("m", 1, good))
            versions.wait_for_phase("m-1", "Serving")
            container.wait_until_ready()

            bad = affine_tflite(place / "models", "m", 2, 5.0, 0.0)
            digest = read_manifest(bad).digest
            (bad / "model.tflite").write_bytes(b"no model" * 100)
            versions.apply(versions.document("m", 2, digest))
            until(
                "the candidate is refused",
                lambda: versions.condition("m-2", "Stalled") or versions.status("m-2").get("phase") == "Rejected",
            )
            operator.stop()
            stopped = _at(operator.state["FinishedAt"])
            checks = len(container.health_log)
            assert checks
            until("it was checked since", lambda: _at(container.health_log[-1]["Start"]) > stopped)
            assert container.health == "healthy"
            assert container.predict("m", 4.0).json() == {"predictions": [[8.0]]}
            assert container.stop() == 0
            assert yaml.safe_load((place / "state" / "status" / "m-1.yaml").read_text())["status"]["phase"] == "Serving"


@pytest.mark.evidence
def test_a_check_costs_little(docker_engine: DockerEngine, made_images: Images, place: Path) -> None:
    """CPU time of the check itself, as its process counted it: every 5 s, beside the models."""
    affine_tflite(place / "models", "m", 1, 2.0, 0.0)
    readable(place / "models")
    code = (
        "import os, resource, statistics\n"
        "used = []\n"
        "for _ in range(9):\n"
        "    before = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "    assert os.waitstatus_to_exitcode(os.system('windlass-health windlass-server > /dev/null')) == 0\n"
        "    after = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "    used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)\n"
        "print(statistics.median(used))\n"
    )
    with running(docker_engine, made_images.litert, options=(f"--volume={place}/models:/models:ro",)) as container:
        container.wait_until_ready()
        seconds = float(docker_engine("exec", container.name, "python", "-c", code))
    measured(
        "image-start",
        "one HEALTHCHECK: CPU time of `windlass-health`, median of 9",
        f"{seconds * 1000:.0f} ms",
        "make e2e",
    )
    assert seconds < 0.1
