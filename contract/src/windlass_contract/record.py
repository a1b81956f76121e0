"""The rollout record: what must be remembered about a server. Record and plan are one object, written in one write."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .document import Document
from .failures import Failure
from .identifiers import Digest, ModelName, Revision, ServerName, Version, VersionKey
from .manifest import Signature
from .plan import Blocked, Epoch, SamplesRef, ServingPlan
from .report import Counters


class Phase(StrEnum):
    """Where a running rollout is."""

    PREPARING = "Preparing"
    STEPPING = "Stepping"
    """In one of `spec.rollout.steps`."""
    ADMITTED = "Admitted"
    """In mode Restart: a first new Pod has proven the version, and new Pods answer with it."""
    COMMITTING = "Committing"


class VersionRef(Document):
    """A version as the record remembers it."""

    version: Version
    digest: Digest
    content_digest: Digest | None = None
    model_version: str = ""
    """Name of the ModelVersion it came from."""
    path: str | None = None
    uri: str | None = None
    """See `PlannedVersion.uri`."""
    image: str | None = None
    """The image that the Pods have to mount for its files; None: these lie in a volume."""
    signatures: dict[str, Signature] = {}


class Verdict(Document):
    """How a rollout, or a version's service, ended."""

    version: Version
    digest: Digest
    outcome: str
    """Committed, Rejected, RolledBack, Superseded, Undone, Withdrawn, Retired."""
    failure: Failure | None = None
    replica: str = ""
    message: str = ""
    epoch: Epoch = 0


class PodTemplate(Document):
    """What we change of the template that Pods are made from."""

    revision: Revision = ""
    """Empty: none of ours."""
    image: str = ""
    """Of the volume `models`; empty: that volume is of another kind."""


class RolloutRecord(Document):
    """The rollout that is running for a model."""

    candidate: VersionRef
    phase: Phase = Phase.PREPARING
    step: Annotated[int, Field(ge=0)] = 0
    step_seconds: Annotated[float, Field(ge=0)] = 0
    """Time spent in the step."""
    waiting_seconds: Annotated[float, Field(ge=0)] = 0
    """Time spent against `progressDeadline`."""
    paused: bool = False
    approved_step: int | None = None
    epoch: Epoch = 0
    """Of the plan that first named the candidate: reports that follow an older one say nothing about this rollout."""
    attempt: Epoch = 0
    """See `PlannedVersion.attempt`; stays when the record is rebuilt. 0: started by an older operator."""
    revision: Revision = ""
    """Of the Pod template that brings the candidate, in mode Restart; empty: it is loaded in place."""
    back_to: PodTemplate = PodTemplate()
    """The Pod template before."""
    samples: SamplesRef | None = None
    """The acceptance samples that the candidate has to pass."""
    evidence: dict[VersionKey, Counters] = {}
    """What instances that are gone had counted."""


class ModelRecord(Document):
    """One model of the server."""

    committed: VersionRef | None = None
    previous: VersionRef | None = None
    previous_seconds: Annotated[float, Field(ge=0)] = 0
    """Time since the commit, against `keepPrevious`."""
    keep_previous_seconds: Annotated[float, Field(ge=0)] = 600
    unclaimed_seconds: Annotated[float, Field(ge=0)] = 0
    """Time since no ModelVersion names the committed version any more."""
    rollout: RolloutRecord | None = None
    quarantine: list[Blocked] = []
    holds: list[Blocked] = []
    pinned: dict[VersionKey, Digest] = {}
    decisions: list[str] = []
    verdicts: Annotated[list[Verdict], Field(max_length=50)] = []
    """Newest last."""


class RolloutRecordSet(Document):
    """Everything remembered about one server."""

    server: ServerName
    models: dict[ModelName, ModelRecord] = {}
    template: PodTemplate | None = None
    """What the Pod template has to be taken back to; None: it is as it should be, or on its way there."""


class ServerState(Document):
    """The one object: plan and record of one server. A replica reads the plan from it and ignores the rest."""

    server: ServerName
    plan: ServingPlan | None = None
    record: RolloutRecordSet | None = None
