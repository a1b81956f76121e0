"""The ModelVersion: what people write, the same on a directory and on a cluster. The CRD is generated from it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .document import StrictDocument
from .identifiers import Digest, Duration, ModelName, ObjectName, Percentage, ServerName, Version, like


class State(StrEnum):
    """Whether a version is wanted."""

    ACTIVE = "Active"
    RETIRED = "Retired"


class Mode(StrEnum):
    """How a version gets into the replicas."""

    IN_PLACE = "InPlace"
    """Loaded beside the old version in each running replica."""
    RESTART = "Restart"
    """By a rolling update of the Pods."""


class SignatureChange(StrEnum):
    """What to do when clients of the committed version would break."""

    REFUSE = "Refuse"
    ALLOW = "Allow"


Namespace = ServerName
"""A Kubernetes namespace: a DNS label, as a server's name is."""


class ObjectMeta(StrictDocument):
    """The part of Kubernetes' metadata that people write."""

    name: ObjectName
    namespace: Namespace = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class ArtifactSource(StrictDocument):
    """Where the files are, and what they have to be."""

    uri: Annotated[
        str,
        like(
            r"^[a-z][a-z0-9+.-]*://.*$",
            "write where the files are, as in volume:// (already mounted) or s3://models/cats-dogs/4",
            max_length=2048,
        ),
    ]
    """`volume://` (already mounted, at `<model>/<version>` below the models' folder), or where to fetch from."""
    digest: Digest | None = None
    """The digest of the manifest; `windlass pack` prints it."""


class Step(StrictDocument):
    """One step of a rollout: shadow or weight, held for a duration or until somebody approves."""

    shadow: Percentage | None = None
    """Share of the requests that the candidate answers too, unseen."""
    weight: Percentage | None = None
    """Share of the traffic that the candidate answers."""
    duration: Duration | None = None
    """Of real exposure."""
    pause: dict[str, str] | None = None
    """`{}`: wait for approval."""

    @model_validator(mode="after")
    def _one_action(self) -> Step:
        if self.shadow is not None and self.weight is not None:
            raise ValueError("a step has either shadow or weight, not both")
        if self.shadow is None and self.weight is None and self.pause is None:
            raise ValueError("a step has a shadow, a weight or a pause")
        if self.duration is not None and self.pause is not None:
            raise ValueError("a step ends after a duration or by approval (pause), not both")
        return self


class Gates(StrictDocument):
    """What real traffic has to show."""

    min_requests: Annotated[int, Field(ge=1, strict=True)] | None = None
    max_error_rate: Percentage | None = None
    max_latency_ratio: Annotated[float, Field(ge=1)] | None = None
    """The candidate's p99 over the committed version's in the same time."""
    min_agreement: Percentage | None = None


class Rollout(StrictDocument):
    """The passage from the committed version to this one."""

    mode: Mode = Mode.IN_PLACE
    steps: Annotated[list[Step], Field(max_length=64)] = []
    """None: commit as soon as every replica is prepared."""
    gates: Gates = Gates()
    keep_previous: Duration = "10m"
    """How long the version before stays resident after a commit, as the way back."""
    progress_deadline: Duration = "10m"
    """For replicas to prepare; it runs only while we wait for that."""


class AcceptanceSource(StrictDocument):
    """Where the acceptance samples are, and how many of them have to be right."""

    config_map: ObjectName | None = None
    """On a cluster: a ConfigMap with the key `samples.json`. On a directory: the file `<name>.json` beside this one."""
    file: (
        Annotated[
            str,
            like(
                r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
                "write the name of a file beside this one, without a folder, as in samples.json",
                max_length=255,
            ),
        ]
        | None
    ) = None
    """On a directory: a file beside this one."""
    uri: Annotated[str, Field(max_length=2048)] | None = None
    digest: Digest | None = None
    """Of the file's bytes; required with `uri`."""
    min_score: Percentage = "100%"

    @model_validator(mode="after")
    def _one_source(self) -> AcceptanceSource:
        given = [name for name in ("config_map", "file", "uri") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("exactly one of configMap, file and uri is expected")
        if self.uri is not None and self.digest is None:
            raise ValueError("samples from a uri need a digest")
        return self


class Verification(StrictDocument):
    """What is checked besides the artifact itself."""

    samples: AcceptanceSource | None = None
    signature_change: SignatureChange = SignatureChange.REFUSE
    """Refuse: a version whose inputs or outputs break the committed version's clients is rejected."""


class ModelVersionSpec(StrictDocument):
    """What is wanted. `server`, `model`, `version` and `artifact` identify it and can't be edited."""

    server: ServerName
    model: ModelName
    version: Version
    artifact: ArtifactSource
    rollout: Rollout = Rollout()
    verify: Verification = Verification()
    state: State = State.ACTIVE


class ModelVersion(StrictDocument):
    """One version of one model on one server."""

    api_version: Literal["windlass.dev/v1alpha1"]
    kind: Literal["ModelVersion"]
    metadata: ObjectMeta
    spec: ModelVersionSpec


class ConditionStatus(StrEnum):
    """Kubernetes' three values."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ConditionType(StrEnum):
    """All conditions of a ModelVersion; each is there from the first visit."""

    FETCHED = "Fetched"
    VERIFIED = "Verified"
    PREPARED = "Prepared"
    PROGRESSING = "Progressing"
    READY = "Ready"
    DEGRADED = "Degraded"
    STALLED = "Stalled"
    ROLLED_BACK = "RolledBack"


class Condition(StrictDocument):
    """As in Kubernetes' API conventions."""

    type: ConditionType
    status: ConditionStatus
    reason: Annotated[str, like(r"^[A-Z][A-Za-z0-9]*$", "write one CamelCase word")]
    message: str = ""
    last_transition_time: str | None = None
    """RFC 3339, UTC; changes only with `status`."""
    observed_generation: int | None = None


class ReplicaCounts(StrictDocument):
    """How many replicas are where."""

    desired: int = 0
    prepared: int = 0
    committed: int = 0


class GateEvidence(StrictDocument):
    """What a gate saw, in one replica or over all of them."""

    gate: str
    result: Literal["Passed", "Failed", "Undecided"]
    statistic: str = ""
    replica: str = ""


class DecisionTaken(StrictDocument):
    """What a person decided."""

    id: str
    action: str
    by: str = ""
    at: str = ""
    outcome: str = ""


class ModelVersionStatus(StrictDocument):
    """What is true, following kstatus. Output only: nothing reads it back."""

    observed_generation: int | None = None
    phase: str = "Pending"
    """One word for tables: Pending, Preparing, Paused, Serving, Previous, Superseded, RolledBack, Quarantined, Held,
    Stalled, Conflict, NotSupported, Retired. Programs read the conditions."""
    message: str = ""
    digest: str | None = None
    step: str = ""
    weight: Annotated[int, Field(ge=0, le=1000)] = 0
    """Thousandths of the model's traffic."""
    replicas: ReplicaCounts = ReplicaCounts()
    way_back: str = ""
    """The version that a rollback would go to, or why there is none."""
    evidence: list[GateEvidence] = []
    decisions: list[DecisionTaken] = []
    conditions: list[Condition] = []
