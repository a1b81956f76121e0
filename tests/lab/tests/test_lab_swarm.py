"""Swarm on the lab's engine: what its scheduler does, without its ingress mesh, which the kernel may lack."""

import json
import urllib.request

import pytest
from windlass_lab.testing.waiting import until

pytestmark = pytest.mark.lab

PROBE = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health')"


def stack(image, *, version="1", unhealthy="0", replicas=2, more=""):
    """A stack of one service that updates start-first and rolls back by itself."""
    return f"""
services:
  app:
    image: {image}
    environment: {{VERSION: "{version}", UNHEALTHY: "{unhealthy}"}}
    stop_grace_period: 2s
    healthcheck:
      {{test: [CMD, python, -c, "{PROBE}"], interval: 500ms, timeout: 5s, retries: 6, start_period: 0s}}
    deploy:
      replicas: {replicas}
      endpoint_mode: dnsrr
      restart_policy: {{delay: 500ms}}
      update_config: {{order: start-first, parallelism: 1, delay: 0s, monitor: 3s, failure_action: rollback}}
      rollback_config: {{order: stop-first, parallelism: 0, monitor: 1s}}
{more}
"""


def versions(docker_engine, service):
    """The VERSION that each running container of a service was given."""
    found = []
    for container in docker_engine(
        "ps", "--quiet", "--filter", f"label=com.docker.swarm.service.name={service}"
    ).split():
        environment = dict(line.split("=", 1) for line in docker_engine.inspect(container)["Config"]["Env"])
        found.append(environment["VERSION"])
    return found


def test_a_rolling_update_starts_the_new_task_first(swarm, docker_engine, app_built, tmp_path):
    swarm.deploy("rolling", stack(app_built), tmp_path)
    until("two tasks run", lambda: len(swarm.running("rolling_app")) == 2)
    before = {task["ID"] for task in swarm.running("rolling_app")}
    swarm.deploy("rolling", stack(app_built, version="2"), tmp_path)
    fewest = [2]

    def updated():
        fewest.append(len(swarm.running("rolling_app")))
        return swarm.update_state("rolling_app") == "completed"

    until("the update is through", updated, timeout=120)
    after = {task["ID"] for task in swarm.running("rolling_app")}
    assert min(fewest) >= 2, "start-first: never fewer than were asked for"
    assert not before & after
    until("the old containers are gone", lambda: versions(docker_engine, "rolling_app") == ["2", "2"])


def test_an_unhealthy_update_is_rolled_back(swarm, docker_engine, app_built, tmp_path):
    swarm.deploy("back", stack(app_built), tmp_path)
    until("two tasks run", lambda: len(swarm.running("back_app")) == 2)
    swarm.deploy("back", stack(app_built, version="2", unhealthy="1"), tmp_path)
    until("it is rolled back", lambda: swarm.update_state("back_app") == "rollback_completed", timeout=150)
    until("two old tasks run", lambda: versions(docker_engine, "back_app") == ["1", "1"])


def test_dns_gives_every_task_of_a_service(swarm, docker_engine, app_built, tmp_path):
    asks = f"  asks:\n    image: {app_built}\n    deploy: {{endpoint_mode: dnsrr}}\n"
    swarm.deploy("names", stack(app_built, replicas=3, more=asks), tmp_path)
    until("all run", lambda: len(swarm.running("names_app")) == 3 and swarm.running("names_asks"))
    (container,) = docker_engine("ps", "--quiet", "--filter", "label=com.docker.swarm.service.name=names_asks").split()
    look = "import socket; print(len({a[4][0] for a in socket.getaddrinfo('app', 8080)}))"
    until("three addresses", lambda: docker_engine("exec", container, "python", "-c", look).strip() == "3")
    ask = "import urllib.request; print(urllib.request.urlopen('http://app:8080/', timeout=20).read().decode())"
    assert json.loads(docker_engine("exec", container, "python", "-c", ask))["version"] == "1"


def test_a_port_in_host_mode_is_reached_from_the_host(swarm, app_built, free_port, tmp_path):
    ports = f"    ports: [{{target: 8080, published: {free_port}, protocol: tcp, mode: host}}]\n"
    swarm.deploy("ports", stack(app_built, replicas=1, more=ports).replace("start-first", "stop-first"), tmp_path)
    until("it runs", lambda: swarm.running("ports_app"))
    with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/", timeout=20) as answer:
        assert json.load(answer)["version"] == "1"
