"""Compose on the lab's engine."""

from datetime import datetime

import pytest
from windlass_lab.errors import CommandError

pytestmark = pytest.mark.lab

PROBE = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health')"


def healthcheck(interval="30s", start_interval="200ms"):
    return f"""
    healthcheck:
      test: [CMD, python, -c, "{PROBE}"]
      interval: {interval}
      start_period: 60s
      start_interval: {start_interval}
"""


def moment(text):
    """Docker's time, without its nanoseconds."""
    return datetime.fromisoformat(text[:26].rstrip("Z"))


def test_an_included_service_is_healthy_before_what_depends_on_it_starts(compose_project, app_built):
    included = f"services:\n  first:\n    image: {app_built}\n    environment: {{STARTUP: '2'}}\n" + healthcheck()
    depends = "    depends_on: {first: {condition: service_healthy}}\n"
    compose_project.write(
        first_yaml=included,
        compose_yaml=f"include: [first.yaml]\nservices:\n  second:\n    image: {app_built}\n{depends}",
    )
    compose_project.up()
    containers = compose_project.containers()
    first = containers["first"]["State"]
    assert first["Health"]["Status"] == "healthy"
    took = (moment(containers["second"]["State"]["StartedAt"]) - moment(first["StartedAt"])).total_seconds()
    assert 2 <= took < 30, "after the first was healthy, found by start_interval (0.2 s) and not by interval (30 s)"


def test_a_service_that_never_gets_healthy_fails_the_project(compose_project, app_built):
    check = "    healthcheck: {test: [CMD, 'false'], interval: 200ms, retries: 2}\n"
    compose_project.write(
        compose_yaml=f"services:\n  bad:\n    image: {app_built}\n{check}"
        f"  needy:\n    image: {app_built}\n    depends_on: {{bad: {{condition: service_healthy}}}}\n"
    )
    with pytest.raises(CommandError, match="unhealthy"):
        compose_project.up()
    assert compose_project.containers()["needy"]["State"]["Status"] == "created"


def test_services_find_each_other_by_name(compose_project, app_built):
    compose_project.write(
        compose_yaml=f"services:\n  one: {{image: {app_built}}}\n  two: {{image: {app_built}, read_only: true}}\n"
    )
    compose_project.up()
    asked = "import urllib.request; print(urllib.request.urlopen('http://one:8080/', timeout=20).read().decode())"
    assert '"version": "1"' in compose_project("exec", "-T", "two", "python", "-c", asked)
