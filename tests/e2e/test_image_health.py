"""HEALTHCHECK as the engine sees it: each case of what healthy means."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from image_kit import HARDENED, Container, Images, readable, running, shared_folder
from windlass_lab.testing.docker import DockerEngine
from windlass_lab.testing.waiting import until

from windlass_contract.artifact import read_manifest
from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.record import ServerState
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


def _bodies(container: Container) -> list[dict[str, Any]]:
    """What /health said at each check that got an answer."""
    bodies = [each["Output"].partition(" ")[2] for each in container.health_log]
    return [json.loads(body) for body in bodies if body.startswith("{")]


def _statuses(container: Container) -> list[str]:
    return [body["status"] for body in _bodies(container)]


def _checked_since(container: Container, said: str) -> None:
    """Waits until the engine has asked it after this moment."""
    moment = _at(said)
    until("it was checked since", lambda: _at(container.health_log[-1]["Start"]) > moment)


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
        # Its database may be looked at first after that check.
        until("nothing is amiss with it", lambda: _statuses(container)[-1] == "ok")


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


@pytest.mark.parametrize(
    ("weight", "health", "model"),
    [
        pytest.param(1000, "unhealthy", "loading", id="traffic for a version that isn't there"),
        pytest.param(0, "healthy", "none", id="no version gets traffic"),
    ],
)
def test_a_plan_is_enough_to_tell(
    docker_engine: DockerEngine, made_images: Images, place: Path, weight: int, health: str, model: str
) -> None:
    """The durable plan, with no operator in reach, and a folder of models in which its version is missing."""
    version = PlannedVersion(version=1, digest=f"sha256:{'0' * 64}", weight=weight)
    plan = ServingPlan.build("one", 1, {"m": ModelPlan(committed=1, versions=[version])})
    (place / "plan.json").write_text(json.dumps(ServerState(server="one", plan=plan).to_dict()))
    readable(place)
    options = (*HARDENED, STATE, *IMPATIENT, f"--volume={place}:/place:ro", f"--volume={place}/models:/models:ro")
    arguments = ("--server=one", "--plan-file=/place/plan.json")
    with running(docker_engine, made_images.litert, *arguments, options=options) as container:
        container.wait_for_health(health)
        until("it says so itself", lambda: _bodies(container)[-1:] and _bodies(container)[-1]["model"] == model)
        assert container.health == health


def test_one_that_was_told_to_stop_is_unhealthy_while_it_still_answers(
    docker_engine: DockerEngine, made_images: Images, place: Path
) -> None:
    affine_tflite(place / "models", "m", 1, 2.0, 0.0)
    readable(place / "models")
    options = (*HARDENED, STATE, *IMPATIENT, f"--volume={place}/models:/models:ro")
    with running(docker_engine, made_images.litert, "--drain-delay=8", options=options) as container:
        container.wait_for_health("healthy")
        docker_engine("kill", "--signal=SIGTERM", container.name)
        container.wait_for_health("unhealthy")
        assert container.predict("m", 4.0).json() == {"predictions": [[8.0]]}
        assert _statuses(container)[-1] == "draining"
        until("it has ended", lambda: not container.state["Running"])
        assert container.state["ExitCode"] == 0


@contextmanager
def _frozen(process: int) -> Iterator[None]:
    """Stops a process so that SIGKILL waits, too, as one does whose disk doesn't answer. Takes version 1 of control
    groups: what version 2 has frozen can be killed."""
    groups = Path(f"/proc/{process}/cgroup").read_text().splitlines()
    path = next((line.split(":", 2)[2] for line in groups if line.split(":")[1] == "freezer"), "")
    own = Path(f"/sys/fs/cgroup/freezer{path}")
    if not path or not own.is_dir():
        pytest.skip("this machine has no freezer of version 1 of control groups")
    frozen = own / "frozen"
    frozen.mkdir()
    try:
        (frozen / "cgroup.procs").write_text(str(process))
        (frozen / "freezer.state").write_text("FROZEN")
        yield
    finally:
        (frozen / "freezer.state").write_text("THAWED")
        until("it ended or left", lambda: not (frozen / "cgroup.procs").read_text())
        frozen.rmdir()


@pytest.mark.soak
def test_a_worker_that_cant_even_be_killed_makes_it_unhealthy_until_it_is_gone(
    docker_engine: DockerEngine, made_images: Images, place: Path
) -> None:
    """The replica kills a worker that has had a request for two minutes, and starts another: only if that doesn't help,
    there is something to see."""
    affine_tflite(place / "models", "m", 1, 2.0, 0.0)
    readable(place / "models")
    options = (*HARDENED, STATE, *IMPATIENT, f"--volume={place}/models:/models:ro")
    with running(docker_engine, made_images.litert, options=options) as container:
        container.wait_for_health("healthy")
        told = docker_engine("top", container.name, "-o", "pid,comm").splitlines()
        (worker,) = (int(line.split()[0]) for line in told if line.endswith("windlass-worker"))
        with _frozen(worker):
            late = container.predict("m", 4.0, timeout=60)
            assert late.status_code == 504
            assert container.health == "healthy", "a request that is late is no reason"
            container.wait_for_health("unhealthy", timeout=200)
            assert "doesn't answer" in _bodies(container)[-1]["reasons"][0]
        container.wait_for_health("healthy")
        assert container.predict("m", 4.0).json() == {"predictions": [[8.0]]}


@dataclass(frozen=True)
class Operated:
    """An operator in a container, the folder of its ModelVersions, and how a replica that follows it is started."""

    operator: Container
    versions: OneMachine
    models: Path
    options: tuple[str, ...]
    arguments: tuple[str, ...]


@pytest.fixture
def operated(docker_engine: DockerEngine, made_images: Images, place: Path, network: str) -> Iterator[Operated]:
    """An operator without a ModelVersion."""
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
        yield Operated(operator, versions, place / "models", options, arguments)


def test_through_a_rollout_it_stays_healthy_whatever_the_candidate_does(
    docker_engine: DockerEngine, made_images: Images, operated: Operated
) -> None:
    """Told that there is no plan, serving, a candidate that fails, the operator gone: healthy each time."""
    versions, models, operator = operated.versions, operated.models, operated.operator
    with running(docker_engine, made_images.litert, *operated.arguments, options=operated.options) as container:
        container.wait_for_health("healthy")
        assert _bodies(container)[-1]["model"] == "none"

        good = read_manifest(affine_tflite(models, "m", 1, 2.0, 0.0)).digest
        versions.apply(versions.document("m", 1, good))
        versions.wait_for_phase("m-1", "Serving")
        container.wait_until_ready()

        bad = affine_tflite(models, "m", 2, 5.0, 0.0)
        digest = read_manifest(bad).digest
        (bad / "model.tflite").write_bytes(b"no model" * 100)
        versions.apply(versions.document("m", 2, digest))
        until(
            "the candidate is refused",
            lambda: versions.condition("m-2", "Stalled") or versions.status("m-2").get("phase") == "Rejected",
        )
        operator.stop()
        _checked_since(container, operator.state["FinishedAt"])
        assert container.health == "healthy"
        assert container.predict("m", 4.0).json() == {"predictions": [[8.0]]}
        assert container.stop() == 0
        assert versions.status("m-1")["phase"] == "Serving"


def test_when_the_last_version_is_retired_it_stays_healthy_and_a_new_one_is_too(
    docker_engine: DockerEngine, made_images: Images, operated: Operated
) -> None:
    """It isn't ready then, for it has nothing to answer with."""
    versions = operated.versions
    document = versions.document("m", 1, read_manifest(affine_tflite(operated.models, "m", 1, 2.0, 0.0)).digest)
    versions.apply(document)
    with running(docker_engine, made_images.litert, *operated.arguments, options=operated.options) as container:
        container.wait_until_ready()
        versions.wait_for_phase("m-1", "Serving")
        document["spec"]["state"] = "Retired"
        versions.apply(document)
        versions.wait_for_phase("m-1", "Retired")
        until("it has nothing to serve", lambda: (it := container.get("/readyz")) and it.status_code == 503)
        _checked_since(container, datetime.now(UTC).isoformat())
        assert container.health == "healthy"
        with running(docker_engine, made_images.litert, *operated.arguments, options=operated.options) as newcomer:
            newcomer.wait_for_health("healthy")
            assert _bodies(newcomer)[-1]["model"] == "none"
            # Its first check may come before it has seen its database, and then says "degraded", which is healthy too.
            until("nothing is amiss with it", lambda: _statuses(newcomer)[-1] == "ok")
            assert (newcomer.health, _bodies(newcomer)[-1]["model"]) == ("healthy", "none")


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
