"""The serving plan: what every replica of a server has to hold, and how traffic is split."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from .canonical import digest_of
from .document import Document
from .identifiers import (
    MAX_PATH,
    MAX_URI,
    Digest,
    Labels,
    ModelName,
    Revision,
    ServerName,
    Version,
    VersionKey,
    stays_inside,
)

Thousandths = Annotated[int, Field(ge=0, le=1000)]
LAST_EPOCH = 2**53 - 1
"""JSON's numbers are exact up to here."""
Epoch = Annotated[int, Field(ge=0, le=LAST_EPOCH)]
MAX_REPORTED_EPOCH = 2**52
"""No report may take an operator further than this, unless it tells of the operator's own plan: from here there is
room enough to count on."""


class SamplesRef(Document):
    """Acceptance samples to run; their bytes are had from the control endpoint by digest."""

    digest: Digest
    min_score: Thousandths = 1000


class PlannedVersion(Document):
    """One version to hold resident."""

    version: Version
    digest: Digest
    path: Annotated[str, Field(max_length=MAX_PATH)] | None = None
    """Relative to the folder of models, and inside it; None: `<model>/<version>`."""
    uri: Annotated[str, Field(max_length=MAX_URI)] | None = None
    """Where the fetcher gets the files from; None: they are there already."""
    weight: Thousandths = 0
    addressable: bool = False
    """Whether it may be asked for by number although its weight is 0 and it isn't the previous version."""
    samples: SamplesRef | None = None
    """To be passed before it counts as prepared; only a candidate has them."""
    attempt: Epoch = 0
    """Which rollout of the candidate this is: the epoch at its start. What failed in another one is loaded anew, since
    a person cleared it. 0: not a candidate, or planned by an older operator."""

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str | None) -> str | None:
        if path is not None and not stays_inside(path):
            raise ValueError("a path inside the folder of models is expected, without '..' and control characters")
        return path


class Shadow(Document):
    """A version that answers a share of the requests unseen."""

    version: Version
    share: Thousandths


class Breaker(Document):
    """When a replica takes a version's traffic away by itself: more than `max_error_rate` of its last hundred requests
    failed by its own fault, and there were `min_requests`."""

    min_requests: Annotated[int, Field(ge=1)] = 20
    max_error_rate: Thousandths = 500


class Blocked(Document):
    """A digest that isn't to be served: quarantined by a verdict, or held by a decision."""

    version: Version
    digest: Digest
    content_digest: Digest | None = None
    """See `Manifest.content_digest`; a quarantine goes by it."""
    reason: str
    message: str = ""


class ModelPlan(Document):
    """One model. Weights of the versions sum up to 1000, or to 0 when the model isn't served."""

    committed: Version | None = None
    previous: Version | None = None
    candidate: Version | None = None
    versions: Annotated[list[PlannedVersion], Field(max_length=8)] = []
    labels: Labels = {}
    shadow: Shadow | None = None
    breaker: Breaker | None = None
    lease_seconds: Annotated[float, Field(gt=0)] | None = None
    """How long the candidate's weight lasts without being renewed."""
    revisions: Annotated[dict[Revision, PlannedVersion], Field(max_length=4)] = {}
    """By revision of the Pod template: the one version that replicas of that revision hold instead, while a rollout in
    mode Restart is under way. They answer with it once it has weight."""
    # Carried so that the record can be rebuilt from any replica's report.
    quarantine: list[Blocked] = []
    holds: list[Blocked] = []
    pinned: dict[VersionKey, Digest] = {}
    decisions: list[str] = []
    """Ids of the decisions taken, newest last."""
    step: Annotated[int, Field(ge=0)] = 0
    """Which of the candidate's steps the rollout is at."""
    paused: bool = False
    """Whether somebody stopped the candidate's rollout."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelPlan:
        numbers = [planned.version for planned in self.versions]
        if len(set(numbers)) != len(numbers):
            raise ValueError("a version is planned once")
        total = sum(planned.weight for planned in self.versions)
        if total not in {0, 1000}:
            raise ValueError(f"the weights sum up to 1000 or 0, not to {total}")
        for role in ("committed", "previous", "candidate"):
            version = getattr(self, role)
            if version is not None and version not in numbers:
                raise ValueError(f"{role} version {version} isn't among the versions to hold")
        return self

    def of_revision(self, revision: str) -> ModelPlan:
        """What replicas of a revision of the Pod template have to follow. Labels of the committed version lead to
        theirs: both versions answer during the update."""
        own = self.revisions.get(revision)
        if own is None:
            return self
        if not own.weight:
            return ModelPlan(candidate=own.version, versions=[own])
        labels = {label: own.version for label, to in self.labels.items() if to == self.committed}
        return ModelPlan(committed=own.version, versions=[own], labels=labels, breaker=self.breaker)

    def planned(self, version: int) -> PlannedVersion | None:
        """The entry of a version, if it is to be held."""
        return next((planned for planned in self.versions if planned.version == version), None)


class ServingPlan(Document):
    """For all replicas of one server. `epoch` only grows; `digest` is over everything else in it."""

    server: ServerName
    epoch: Epoch
    models: Annotated[dict[ModelName, ModelPlan], Field(max_length=1000)] = {}
    digest: Digest

    @classmethod
    def build(cls, server: str, epoch: int, models: dict[str, ModelPlan]) -> ServingPlan:
        """A plan with its digest."""
        content = {
            "server": server,
            "epoch": epoch,
            "models": {name: model.to_dict() for name, model in models.items()},
        }
        return cls.model_validate({**content, "digest": digest_of(content)})

    @model_validator(mode="wrap")
    @classmethod
    def _digest_fits(cls, value: Any, handler: Any) -> ServingPlan:
        plan: ServingPlan = handler(value)
        content = plan.to_dict()
        content.pop("digest", None)
        if digest_of(content) != plan.digest:
            raise ValueError(f"the plan's digest is {digest_of(content)}; it was damaged or edited by hand")
        return plan

    def of_revision(self, revision: str) -> ServingPlan:
        """As replicas of a revision of the Pod template have to follow it; itself, if it says nothing of that revision.
        Epoch and digest stay those of the whole plan."""
        if not any(revision in model.revisions for model in self.models.values()):
            return self
        return self.model_copy(
            update={"models": {name: model.of_revision(revision) for name, model in self.models.items()}}
        )

    @property
    def has_traffic(self) -> bool:
        """Whether any version is to get traffic."""
        return any(planned.weight > 0 for model in self.models.values() for planned in model.versions)
