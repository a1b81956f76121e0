"""The serving report: what one instance of a replica says it holds."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .document import Document
from .failures import Failure, GateResult
from .histogram import LatencyHistogram
from .identifiers import Digest, ModelName, Revision, ServerName, Version, VersionKey, like
from .manifest import Signature
from .plan import ServingPlan


class VersionState(StrEnum):
    """Where a version is in a replica. In TensorFlow Serving's words: Waiting START, Fetching to Testing LOADING,
    Prepared AVAILABLE, Unloading UNLOADING, Failed END."""

    WAITING = "Waiting"
    """Its turn hasn't come, or its files are not there yet, or a retry is due."""
    FETCHING = "Fetching"
    """The fetcher brings its files."""
    VERIFYING = "Verifying"
    LOADING = "Loading"
    WARMING_UP = "WarmingUp"
    TESTING = "Testing"
    PREPARED = "Prepared"
    """Resident, warm and tested: traffic may reach it."""
    UNLOADING = "Unloading"
    FAILED = "Failed"


class Counters(Document):
    """Since the version's start in this instance; they only grow."""

    requests: Annotated[int, Field(ge=0)] = 0
    errors: Annotated[int, Field(ge=0)] = 0
    """Failed by the version's own fault."""
    fallbacks: Annotated[int, Field(ge=0)] = 0
    """Of the failed ones, those that another version answered."""
    latency: LatencyHistogram = LatencyHistogram()


class VersionReport(Document):
    """One version in one instance."""

    version: Version
    digest: Digest | None = None
    """Of the manifest, once its files verified."""
    content_digest: Digest | None = None
    state: VersionState
    failure: Failure | None = None
    """Why it is Failed, or what a Waiting one waits for."""
    progress: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the present state's work done, where it is known."""
    gates: list[GateResult] = []
    signatures: dict[str, Signature] = {}
    """As the loaded model has them."""
    restarts: Annotated[int, Field(ge=0)] = 0
    """How often its worker was started anew since it was first prepared."""
    memory_bytes: Annotated[int, Field(ge=0)] | None = None
    counters: Counters = Counters()
    breaker: Failure | None = None
    """Why its traffic was taken away here, until the plan changes who serves."""


class ModelReport(Document):
    """One model in one instance."""

    versions: list[VersionReport] = []
    serving: dict[VersionKey, Annotated[int, Field(ge=0, le=1000)]] = {}
    """Version to thousandths of the traffic, as it is routed now."""
    lagging: bool = False
    """Told to serve what it doesn't hold yet; it goes on with what it has."""
    breaker_open: bool = False
    """A version failed too often: its traffic went to the version before, until the plan changes."""


class ServingReport(Document):
    """One instance of one replica, at one moment."""

    server: ServerName
    replica: Annotated[str, Field(min_length=1, max_length=253)]
    """Stable over restarts where there is something stable: the Pod's, task's or container's name."""
    instance: Annotated[str, like(r"^[0-9a-f-]{8,64}$", "write 8 to 64 hexadecimal digits and '-', as in a UUID")]
    """New at each start."""
    sequence: Annotated[int, Field(ge=0)]
    """Grows with each report of the instance."""
    plan: ServingPlan | None = None
    """The plan it follows; None: it has none."""
    revision: Revision = ""
    """Of the Pod template that it was made from."""
    plan_conflict: bool = False
    """It was given its own epoch with another digest."""
    ready: bool = False
    draining: bool = False
    fetches: Annotated[list[str], Field(max_length=16)] = []
    """Schemes of the URIs that its fetcher brings files from; none: there is no fetcher at work."""
    models: dict[ModelName, ModelReport] = {}

    def version(self, model: str, version: int) -> VersionReport | None:
        """What it says of one version."""
        report = self.models.get(model)
        return next((each for each in report.versions if each.version == version), None) if report else None
