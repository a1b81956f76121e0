"""The numbers of health fit each other."""

from __future__ import annotations

import math

import pytest

from windlass_contract import control
from windlass_contract.health import HEALTH, Health, HealthTimings


def test_the_start_period_outlasts_a_load() -> None:
    assert HEALTH.start_period > HEALTH.load_deadline


def test_the_grace_period_outlasts_the_drain_with_time_left_for_requests() -> None:
    assert HEALTH.stop_grace_period >= HEALTH.drain_delay + 30


def test_traffic_has_gone_before_a_stopping_replica_refuses_it() -> None:
    """A replica that isn't ready any more gets requests until the next probe has failed."""
    assert HEALTH.drain_delay >= 2


def test_an_unhealthy_replica_is_found_within_half_a_minute() -> None:
    assert HEALTH.interval * HEALTH.retries + HEALTH.timeout <= 30
    assert HEALTH.timeout < HEALTH.interval
    assert HEALTH.start_interval <= HEALTH.interval


@pytest.mark.parametrize(
    ("period", "interval", "retries", "threshold"), [(330, 1, 3, 333), (10, 3, 1, 5), (9, 3, 2, 5), (0.5, 1, 1, 2)]
)
def test_the_startup_probe_waits_as_long_as_docker_does(
    period: float, interval: float, retries: int, threshold: int
) -> None:
    timings = HealthTimings(start_period=period, start_interval=interval, retries=retries)
    assert timings.startup_failure_threshold() == threshold
    assert threshold * interval >= period


def test_the_times_of_the_control_protocol_fit_each_other() -> None:
    assert control.REPORT_SECONDS < control.SUBSCRIBED_SECONDS
    assert control.QUIET_REPORT_SECONDS <= control.SUBSCRIBED_SECONDS - 2
    assert control.POLL_SECONDS < control.SILENCE_SECONDS
    assert control.GATHER_SECONDS >= 2 * control.REPORT_SECONDS
    assert control.GATHER_SECONDS_ORCHESTRATED > control.SILENCE_SECONDS
    ports = [control.SERVER_PORT, control.SERVER_METRICS_PORT, control.CONTROL_PORT, control.OPERATOR_METRICS_PORT]
    assert ports == [8000, 8001, 8010, 8011]


@pytest.mark.parametrize(
    ("asked", "seconds"), [(1.0, 1.0), (2.345, 2.345), (3.0, 3.0), (0.001, 1.0), (3600.0, 3.0), (math.inf, 3.0)]
)
def test_whatever_an_operator_asks_for_a_replica_reports_often_enough_and_not_too_often(
    asked: float, seconds: float
) -> None:
    assert control.between_reports(asked) == seconds


def test_the_body_of_health_has_what_is_promised() -> None:
    body = Health(status="ok", database="disabled", model="none", timestamp="2026-01-01T00:00:00Z").to_dict()
    assert body == {"status": "ok", "database": "disabled", "model": "none", "timestamp": "2026-01-01T00:00:00Z"}
