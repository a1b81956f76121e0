"""The numbers of health, said once: Docker's HEALTHCHECK, Compose, Swarm, the charts and the docs agree with them.

Units: seconds.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from .document import Document


class HealthTimings(Document):
    """When a replica is taken for healthy. `start_period` is longer than the deadline of a load."""

    interval: Annotated[float, Field(gt=0)] = 5
    timeout: Annotated[float, Field(gt=0)] = 3
    retries: Annotated[int, Field(ge=1)] = 3
    start_period: Annotated[float, Field(gt=0)] = 330
    start_interval: Annotated[float, Field(gt=0)] = 1
    stop_grace_period: Annotated[float, Field(gt=0)] = 40
    """From SIGTERM to SIGKILL: longer than `drain_delay`, the longest request and unloading together."""
    drain_delay: Annotated[float, Field(ge=0)] = 3
    """How long a stopping replica, already not ready, still accepts: until everyone has stopped sending."""
    load_deadline: Annotated[float, Field(gt=0)] = 300

    def startup_failure_threshold(self) -> int:
        """`failureThreshold` of the Kubernetes startupProbe that means what start period and retries mean."""
        return math.ceil(self.start_period / self.start_interval) + self.retries


HEALTH = HealthTimings()


class Health(Document):
    """The body of `/health`."""

    status: Literal["ok", "starting", "degraded", "unavailable", "draining"]
    database: Literal["ok", "unavailable", "disabled"]
    model: Literal["ok", "none", "loading", "unavailable"]
    timestamp: str
    """RFC 3339, UTC."""
    reasons: list[str] = []
    """What keeps it from being ok, each in a sentence with its remedy."""
    epoch: int | None = None
    instance: str | None = None
    models: dict[str, dict[str, str]] = {}
    """Model to version to state."""
    confinement: dict[str, str] = {}
    """What the kernel denies the processes that run models: measure to `in force`, or why it isn't. Empty before the
    first."""
