"""Compose with three replicas: new versions, more and fewer replicas, a crash, a database that is away."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from container_sources import container_sources
from deployment_checks import a_minute_without_database, swaps
from deployments import ComposeDeployment
from image_kit import Images, running
from sources_rig import SECRET_KEY
from uploads import send_together
from windlass_lab.fixtures import COLLECTORS
from windlass_lab.testing.docker import DockerEngine
from windlass_lab.testing.waiting import until

from windlass_contract.artifact import read_manifest
from windlass_contract.health import HEALTH
from windlass_testing.evidence import measured
from windlass_testing.models import affine_tflite
from windlass_testing.one_machine import BIN

pytestmark = pytest.mark.lab

REPLICAS = 3
WHERE = f"Compose, {REPLICAS} replicas"


@pytest.fixture(scope="module")
def project(
    docker_engine: DockerEngine, made_images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComposeDeployment]:
    """Three replicas with nothing to serve at first; version 1 was rolled out to them."""
    name = f"compose-{secrets.token_hex(3)}"
    project = ComposeDeployment(docker_engine, made_images, name, tmp_path_factory.mktemp(name))
    try:
        project.up(REPLICAS)
        project.serve(1)
        yield project
    finally:
        project.down()


@pytest.fixture(autouse=True)
def kept(request: pytest.FixtureRequest, project: ComposeDeployment) -> None:
    """Logs are kept when a test fails."""
    request.node.stash.setdefault(COLLECTORS, []).append(project.evidence)


def newest(project: ComposeDeployment) -> int:
    return int(project.answer())


def test_ten_versions_that_werent_there_go_live_in_three_replicas_and_nothing_is_lost(
    project: ComposeDeployment,
) -> None:
    swaps(project, REPLICAS, 10, WHERE)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_versions_that_werent_there_go_live_in_three_replicas_and_nothing_is_lost(
    project: ComposeDeployment,
) -> None:
    swaps(project, REPLICAS, 50, WHERE)


@pytest.mark.soak
def test_replicas_that_come_and_go_lose_nothing(project: ComposeDeployment) -> None:
    with project.load() as load:
        project.up(REPLICAS + 1)
        known = {answer.instance for answer in load.answers}
        until("the new replica answers", lambda: len({answer.instance for answer in load.answers}) == REPLICAS + 1)
        project.up(REPLICAS)
    assert known
    assert load.lost == []
    assert load.wrong == []
    measured(
        "nothing-lost",
        f"Compose: from {REPLICAS} replicas to {REPLICAS + 1} and back, under constant load",
        f"{len(load.lost)} of {len(load.answers)} requests lost",
        "make soak",
    )


@pytest.mark.timeout(900)
def test_a_replica_killed_in_mid_rollout_comes_back_on_the_committed_version_and_the_rollout_ends(
    project: ComposeDeployment,
) -> None:
    committed = newest(project)
    victim = project.containers("server")[0]
    networks = project.engine.inspect(victim)["NetworkSettings"]["Networks"]
    address = networks[f"{project.name}_control"]["IPAddress"]
    with project.load() as load, project.observed() as observed:
        name = project.roll(committed + 1, rollout={"steps": [{"pause": {}}]})
        project.wait_for_phase(name, "Paused")
        killed = project.kill(victim)
        observed.wait_for(
            "the killed replica answers again",
            lambda seen: any(each.address == address and each.status == 200 and each.sent > killed for each in seen),
            240,
        )
        # The folder of ModelVersions belongs to whoever runs this.
        project.compose(f'run --rm --user "$(id -u)" windlass approve {name}')
        project.wait_for_phase(name, "Serving")
    again = next(each for each in observed.answers if each.address == address and each.sent > killed and each.version)
    assert again.version == str(committed)
    assert {answer.version for answer in load.answers if answer.sent > killed and not answer.lost} == {
        str(committed),
        str(committed + 1),
    }
    in_flight = [answer for answer in load.lost if answer.sent <= killed]
    assert load.lost == in_flight, "only what was in flight there, or sent there until it had ended, may fail"
    assert project.answer() == str(committed + 1)
    assert len(observed.answered_with(committed + 1)) == REPLICAS
    measured(
        "sigkill",
        f"Compose, {REPLICAS} replicas behind nginx: one killed while a rollout waits",
        f"{len(in_flight)} of {len(load.answers)} requests failed, all sent before it had ended; the rollout ended",
        "make e2e",
    )


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_database_that_is_away_for_a_minute_costs_nothing(project: ComposeDeployment) -> None:
    a_minute_without_database(
        project,
        REPLICAS,
        lambda: print(project.compose("stop postgres")),
        lambda: print(project.compose("start postgres")),
        WHERE,
    )


def test_the_fetcher_brings_versions_from_the_web_and_from_s3_and_they_serve(
    project: ComposeDeployment, official_image: Callable[[str], str], tmp_path: Path
) -> None:
    """Started beside what runs already, as its README has it."""
    model, edge = "brought", f"{project.name}_edge"
    packed = {version: affine_tflite(tmp_path / "packed", model, version, 2.0, version - 1.0) for version in (1, 2)}

    def apply(version: int, uri: str, **spec: str) -> str:
        return project.apply(model, version, {"uri": uri, "digest": read_manifest(packed[version]).digest}, **spec)

    def answer() -> Any:
        asked = httpx.post(f"{project.url}/v1/models/{model}:predict", json={"instances": [[1.0]]}, timeout=30)
        return asked.json()

    s3_image = official_image("s3")
    with (
        container_sources(project.engine, edge, tmp_path, project.images.litert, s3_image) as sources,
        project.load() as load,
    ):
        shutil.copytree(packed[1], sources.published / model / "1")
        shutil.copytree(packed[2], sources.bucket / model / "2")
        first = apply(1, sources.web_uri(model, 1))
        until("nobody fetches it", lambda: project.condition(first, "Fetched").get("reason") == "NoFetcher")

        with (project.folder / ".env").open("a") as file:
            file.writelines(f"{key}={value}\n" for key, value in sources.settings().items())
        sources.give_credentials(project.folder / "secrets" / "fetcher")
        project.run("chown 65532:65532 models")
        replicas = set(project.containers("server"))
        try:
            project.compose("up --detach fetcher")
            project.wait_for_phase(first, "Serving")
            assert answer() == {"predictions": [[2.0]]}
            second = apply(2, sources.s3_uri(model, 2))
            project.wait_for_phase(second, "Serving")
            assert answer() == {"predictions": [[3.0]]}

            assert set(project.containers("server")) == replicas, "nobody was restarted for it"
            fetcher = project.engine.inspect(project.container("fetcher"))
            assert fetcher["HostConfig"]["ReadonlyRootfs"]
            assert (fetcher["HostConfig"]["CapDrop"], fetcher["Config"]["User"]) == (["ALL"], "65532:65532")
            assert project.execute("server", "ls", "/run/secrets").split() == ["control-token", "predictions-url"]
            logs = project.run(f"docker logs {fetcher['Id']} 2>&1")
            assert SECRET_KEY not in logs + json.dumps(fetcher)
            said = [json.loads(line) for line in logs.splitlines() if line.startswith("{")]
            brought = {line.get("version") for line in said if line["event"] == "fetched"}
            assert brought == {f"{model}/1", f"{model}/2"}

            apply(1, sources.web_uri(model, 1), state="Retired")
            apply(2, sources.s3_uri(model, 2), state="Retired")
            project.wait_for_phase(second, "Retired")
        finally:
            project.compose("rm --stop --force fetcher")
    assert (load.lost, load.wrong) == ([], [])


def test_the_containers_are_confined_as_the_files_say(project: ComposeDeployment) -> None:
    for service in ("server", "operator", "postgres", "front"):
        described = project.engine.inspect(project.containers(service)[0])
        host = described["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        assert described["Config"]["User"] not in ("", "0", "root")
        writable = [mount["Destination"] for mount in described["Mounts"] if mount["RW"] and mount["Type"] == "bind"]
        assert writable == []
        assert "secret" not in str(described["Config"]["Env"]).lower().replace("/run/secrets", "")
    check = project.engine.inspect(project.containers("server")[0])["Config"]["Healthcheck"]
    assert check["Test"][0] == "CMD", "it came with the image"
    second = 1_000_000_000
    assert (check["Interval"], check["StartInterval"]) == (HEALTH.interval * second, HEALTH.start_interval * second)
    assert (check["StartPeriod"], check["Retries"]) == (HEALTH.start_period * second, HEALTH.retries)


def test_who_has_nothing_to_say_to_each_other_cant_reach_each_other(project: ComposeDeployment) -> None:
    def reaches(service: str, host: str, port: int) -> bool:
        connect = f"import socket; socket.create_connection(({host!r}, {port}), 3)"
        python = "/opt/windlass/bin/python3"
        command = ["docker", "exec", project.containers(service)[0], python, "-c", connect]
        environment = project.engine.environment
        return not subprocess.run(command, env={**environment}, capture_output=True, timeout=60).returncode

    assert reaches("server", "operator", 8010)
    assert reaches("server", "postgres", 5432)
    assert not reaches("operator", "postgres", 5432)
    database = project.engine.inspect(project.container("postgres"))["NetworkSettings"]["Networks"]
    address = database[f"{project.name}_back"]["IPAddress"]
    assert not reaches("operator", address, 5432), "not by its address either"
    front = project.engine.inspect(project.container("front"))["NetworkSettings"]["Networks"]
    gateway = front[f"{project.name}_edge"]["Gateway"]
    assert not reaches("server", gateway, project.port), "models have no way out"


def test_without_a_replica_the_front_says_so_and_stays_healthy(project: ComposeDeployment) -> None:
    project.compose("stop server")
    try:
        response = httpx.post(
            f"{project.url}/v1/models/{project.model}:predict", json={"instances": [[1.0]]}, timeout=30
        )
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        assert "no replica takes requests" in response.json()["error"]
        assert project.health("front") == ["healthy"]
    finally:
        project.up(REPLICAS)
    until("they serve again", lambda: httpx.get(f"{project.url}/readyz", timeout=30).status_code == 200)


def test_a_body_that_is_too_large_is_refused_by_the_front(project: ComposeDeployment) -> None:
    too_large = b"0" * (64 * 1024 * 1024 + 1)
    response = httpx.post(f"{project.url}/v1/models/{project.model}:predict", content=too_large, timeout=60)
    assert response.status_code == 413
    assert "error" in response.json()


def test_many_large_bodies_at_once_are_answered_or_refused_in_json_and_stored_nowhere(
    project: ComposeDeployment,
) -> None:
    """Fifteen that only lack their last byte: 900 MiB, and each of the three replicas takes 256 at a time."""
    url, version = f"{project.url}/v1/models/{project.model}:predict", newest(project)
    front, content, mib = project.container("front"), b'{"instances": [[1.0]]}', 1024 * 1024
    stored: list[int] = []

    def look() -> None:
        told = project.engine("exec", front, "stat", "--file-system", "--format=%b %f %S", "/tmp")
        blocks, free, size = map(int, told.split())
        stored.append((blocks - free) * size)

    with project.load() as load:
        answers = send_together(url, content, 60 * mib, 5 * REPLICAS, look)
    taken = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer not in taken]
    assert 4 <= len(taken) <= 4 * REPLICAS, answers
    assert all(answer.body == {"predictions": [[version + 1.0]]} for answer in taken)
    for answer in refused:
        assert answer.status == 429, answer
        assert "too many large requests" in answer.body["error"]
        assert answer.headers["retry-after"]
    assert stored[0] < mib
    assert (load.lost, load.wrong) == ([], []), "small ones go on"
    (after,) = send_together(url, content, 64 * mib, 1, look)
    assert (after.status, after.body) == (200, {"predictions": [[version + 1.0]]})
    assert (project.health("front"), project.container("front")) == (["healthy"], front)


def test_a_body_goes_on_to_the_next_replica_when_one_refuses(project: ComposeDeployment) -> None:
    """As one that starts does, and one that has just stopped: here one that never listens."""
    url, version = f"{project.url}/v1/models/{project.model}:predict", newest(project)
    front, content = project.container("front"), b'{"instances": [[1.0]]}'
    began = datetime.now(UTC).isoformat()

    def refusals() -> int:
        said = project.run(f"docker logs --since {began} {front} 2>&1")
        return said.count("Connection refused")

    options = (f"--network={project.name}_front", "--network-alias=server", "--entrypoint=python")
    with running(project.engine, project.images.operator, "-c", "import signal; signal.pause()", options=options):
        answers = []

        def refused_often() -> bool:
            answers.extend(send_together(url, content, 1024 * 1024, 8, lambda: None))
            return refusals() >= 8

        until("it was often tried", refused_often)
    assert {answer.status for answer in answers} == {200}
    assert all(answer.body == {"predictions": [[version + 1.0]]} for answer in answers)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"nonsense\r\n\r\n", id="no request line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a b\r\nbroken\r\n\r\n", id="a header without a colon"),
        pytest.param(b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="a long path"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", id="a long header"),
    ],
)
def test_a_malformed_request_is_refused_by_the_front_in_json(project: ComposeDeployment, sent: bytes) -> None:
    where = httpx.URL(project.url)
    with (
        socket.create_connection((where.host, where.port or 80), 30) as connection,
        connection.makefile("rb") as answer,
    ):
        connection.sendall(sent)
        said = answer.read()
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), head
    assert "malformed" in json.loads(body)["error"]


def test_the_command_line_of_the_checkout_reads_what_the_one_in_the_container_reads(project: ComposeDeployment) -> None:
    said = project.compose("run --rm windlass get")
    assert project.version_name(newest(project)) in said
    local = subprocess.run(
        [str(BIN / "windlass"), "get", "--directory", str(project.folder / "model-versions")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path("/"),
    )
    assert "no operator has worked" in local.stdout + local.stderr, "its state is in a volume, as the page says"
