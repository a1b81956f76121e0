"""Swarm with three tasks: new versions, a crash, updates of the image, one that is never healthy, a database away."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from deployment_checks import a_minute_without_database, swaps
from deployments import SwarmDeployment
from image_kit import Images
from windlass_lab.fixtures import COLLECTORS
from windlass_lab.testing.docker import DockerEngine, Swarm
from windlass_lab.testing.waiting import until

from windlass_contract.health import HEALTH
from windlass_testing.evidence import measured

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]

TASKS = 3
WHERE = f"Swarm, {TASKS} tasks"
UPDATED = """
services:
  server:
    environment: {WINDLASS_LOG_LEVEL: debug}
"""


@pytest.fixture(scope="module")
def stack(
    docker_engine: DockerEngine, _swarm: Swarm, made_images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SwarmDeployment]:
    """Three tasks that serve version 1."""
    name = f"swarm-{secrets.token_hex(3)}"
    stack = SwarmDeployment(docker_engine, made_images, name, tmp_path_factory.mktemp(name))
    try:
        stack.deploy()
        stack.wait_until_healthy(TASKS)
        stack.serve(1)
        yield stack
    finally:
        stack.remove()


@pytest.fixture(autouse=True)
def kept(request: pytest.FixtureRequest, stack: SwarmDeployment) -> None:
    """Logs are kept when a test fails."""
    request.node.stash.setdefault(COLLECTORS, []).append(stack.evidence)


def test_ten_versions_that_werent_there_go_live_in_three_tasks_and_nothing_is_lost(stack: SwarmDeployment) -> None:
    swaps(stack, TASKS, 10, WHERE)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_versions_that_werent_there_go_live_in_three_tasks_and_nothing_is_lost(stack: SwarmDeployment) -> None:
    swaps(stack, TASKS, 50, WHERE)


@pytest.mark.soak
def test_a_task_killed_in_mid_rollout_is_replaced_by_one_that_takes_the_committed_version_from_its_subscription(
    stack: SwarmDeployment,
) -> None:
    committed = int(stack.answer())
    before = set(stack.containers("server"))
    victim = min(before)
    with stack.load() as load, stack.observed() as observed:
        name = stack.roll(committed + 1, rollout={"steps": [{"pause": {}}]})
        stack.wait_for_phase(name, "Paused")
        killed = stack.kill(victim)
        until("another task is healthy", lambda: stack.health("server") == ["healthy"] * TASKS, 180)
        (newcomer,) = set(stack.containers("server")) - before
        address = stack.engine.inspect(newcomer)["NetworkSettings"]["Networks"][f"{stack.name}_control"]["IPAddress"]
        observed.wait_for(
            "it answers", lambda seen: any(each.address == address and each.status == 200 for each in seen)
        )
        approve(stack, name)
        stack.wait_for_phase(name, "Serving")
    first = next(each for each in observed.answers if each.address == address and each.sent > killed and each.version)
    assert first.version == str(committed)
    in_flight = [answer for answer in load.lost if answer.sent <= killed]
    assert load.lost == in_flight, "only what was in flight there, or sent there until it had ended, may fail"
    assert address in observed.answered_with(committed + 1)
    measured(
        "sigkill",
        f"Swarm, {TASKS} tasks behind nginx: one killed while a rollout waits; its successor begins with nothing",
        f"{len(in_flight)} of {len(load.answers)} requests failed, all sent before it had ended; the rollout ended",
        "make soak",
    )


def approve(stack: SwarmDeployment, name: str) -> None:
    """As docs/swarm.md has it: the command line in a container, on the operator's volume."""
    folder = stack.folder / "model-versions"
    image = stack.engine.inspect(stack.containers("server")[0])["Image"]
    stack.run(
        f'docker run --rm --user "$(id -u)" --network none --volume {folder}:/model-versions'
        f" --volume {stack.name}_operator-state:/state:ro --env WINDLASS_DIRECTORY=/model-versions"
        f" --env WINDLASS_STATE=/state --entrypoint windlass {image} approve {name}"
    )


@pytest.mark.soak
def test_a_start_first_update_loses_nothing(stack: SwarmDeployment) -> None:
    version, before = stack.answer(), set(stack.containers("server"))
    (stack.folder / "updated.yaml").write_text(UPDATED)
    fewest = [TASKS]

    def updated() -> bool:
        fewest.append(len([each for each in stack.health("server") if each == "healthy"]))
        return stack.update_state("server") == "completed"

    with stack.load() as load:
        stack.deploy("updated.yaml")
        until("the update is through", updated, 400)
        until("the old tasks are gone", lambda: not before & set(stack.containers("server")), 120)
    assert load.lost == []
    assert load.wrong == []
    assert {answer.version for answer in load.answers} == {version}
    assert len({answer.instance for answer in load.answers}) == 2 * TASKS, "three before and three after"
    measured(
        "nothing-lost",
        f"Swarm: start-first update of {TASKS} tasks under constant load",
        f"{len(load.lost)} of {len(load.answers)} requests lost",
        "make soak",
    )


@contextmanager
def broken_version(stack: SwarmDeployment, how: str) -> Iterator[str]:
    """The tag of a server's image that is broken so, and of an operator's that isn't."""
    server, _, good = stack.images.server.rpartition(":")
    tag = f"{good}-{how}-{secrets.token_hex(3)}"
    folder = Path(__file__).parent / "images"
    options = (f"--file={folder}/broken.Dockerfile", f"--target={how}", f"--build-arg=SERVER={stack.images.server}")
    operator = f"{stack.images.operator.rpartition(':')[0]}:{tag}"
    stack.engine.build(f"{server}:{tag}", folder, *options)
    stack.engine("tag", stack.images.operator, operator)
    try:
        yield tag
        stack.deploy()
        until("no update goes on", lambda: stack.update_state("server") in ("", "completed", "rollback_completed"), 240)
        stack.wait_until_healthy(TASKS)
    finally:
        stack.engine("image", "rm", "--force", f"{server}:{tag}", operator)


def is_taken_back(stack: SwarmDeployment, how: str, command: str, timeout: float) -> list[dict[str, Any]]:
    """Updates to a broken version, as docs/swarm.md has it and with the numbers as they are shipped. Gives the states
    of the containers that were tried with it."""
    before = set(stack.containers("server"))
    with broken_version(stack, how) as tag:
        began = time.monotonic()
        with stack.load() as load:
            stack.deploy(WINDLASS_VERSION=tag)
            until("it is taken back", lambda: stack.update_state("server") == "rollback_completed", timeout)
            took = time.monotonic() - began
            until("three are healthy", lambda: stack.health("server") == ["healthy"] * TASKS, 120)
        kept = before & set(stack.containers("server"))
        image = f"{stack.images.server.rpartition(':')[0]}:{tag}"
        tried = stack.engine("ps", "--all", "--quiet", "--filter", f"ancestor={image}").split()
        states = [stack.engine.inspect(each)["State"] for each in tried]
    spec = stack.service("server")["Spec"]
    update, check, second = spec["UpdateConfig"], spec["TaskTemplate"]["ContainerSpec"]["Healthcheck"], 1_000_000_000
    assert (load.lost, load.wrong) == ([], [])
    assert len(kept) >= TASKS - 1, "at most one was touched"
    assert states, "it is this update that was taken back"
    assert (update["FailureAction"], update["MaxFailureRatio"], update["Order"]) == ("rollback", 0, "start-first")
    assert "Test" not in check, "what is run comes with the image"
    assert (check["Interval"], check["StartInterval"]) == (HEALTH.interval * second, HEALTH.start_interval * second)
    assert (check["StartPeriod"], check["Retries"]) == (HEALTH.start_period * second, HEALTH.retries)
    measured(
        "nothing-lost",
        f"Swarm: an update of {TASKS} tasks to an image that is broken ({how}) is taken back, under constant load",
        f"{len(load.lost)} of {len(load.answers)} requests lost; taken back after {took:.0f} s",
        command,
    )
    return states


def test_an_update_to_an_image_that_ends_at_once_is_taken_back_and_nothing_is_lost(stack: SwarmDeployment) -> None:
    states = is_taken_back(stack, "ends-at-once", "make e2e", 240)
    assert {state["ExitCode"] for state in states} == {2}


@pytest.mark.soak
def test_an_update_to_an_image_that_is_never_healthy_is_taken_back_and_nothing_is_lost(stack: SwarmDeployment) -> None:
    """It has until the end of the start period, and is told to stop then. Another may have begun before the Swarm goes
    back."""
    states = is_taken_back(stack, "never-healthy", "make soak", HEALTH.start_period + 240)
    first = min(states, key=lambda state: state["StartedAt"])
    assert first["ExitCode"] == 0
    started, ended = (datetime.fromisoformat(first[key][:19]) for key in ("StartedAt", "FinishedAt"))
    assert HEALTH.start_period <= (ended - started).total_seconds() < HEALTH.start_period + 60


@pytest.mark.soak
def test_a_database_that_is_away_for_a_minute_costs_nothing_on_a_swarm(stack: SwarmDeployment) -> None:
    service = f"{stack.name}_postgres"
    a_minute_without_database(
        stack,
        TASKS,
        lambda: print(stack.engine("service", "scale", "--detach", f"{service}=0")),
        lambda: print(stack.engine("service", "scale", "--detach", f"{service}=1")),
        WHERE,
    )
