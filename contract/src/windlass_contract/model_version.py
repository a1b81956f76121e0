"""The ModelVersion: what people write, the same on a directory and on a cluster. The CRD is generated from it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from .document import StrictDocument
from .identifiers import MAX_URI, Digest, Duration, ModelName, ObjectName, Percentage, ServerName, Version, like


def _rules(*rules: tuple[str, str]) -> ConfigDict:
    """What the Kubernetes API server checks of one object by itself: CEL and message. They say the same as the
    validators here, and what may change in an edit, which no validator sees.
    """
    validations: Any = [{"rule": rule, "message": message} for rule, message in rules]
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": validations})


def _fixed(field: str) -> tuple[str, str]:
    """An identifying field that can't be edited."""
    return (
        f"self.{field} == oldSelf.{field}",
        f"spec.{field} can't be edited: it says which version this is; write a new ModelVersion",
    )


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

    model_config = _rules(
        ("self.uri == oldSelf.uri", "spec.artifact.uri can't be edited; write a new ModelVersion"),
        (
            "has(self.digest) == has(oldSelf.digest) && (!has(self.digest) || self.digest == oldSelf.digest)",
            "spec.artifact.digest can't be edited: other files are another version; write a new ModelVersion",
        ),
    )

    uri: Annotated[
        str,
        like(
            r"^[a-z][a-z0-9+.-]*://.*$",
            "write where the files are, as in volume:// (already mounted) or s3://models/cats-dogs/4",
            max_length=MAX_URI,
        ),
    ]
    """`volume://` (already mounted, at `<model>/<version>` below the models' folder), `oci://` (an image that new Pods
    mount as that folder, in mode Restart), or where to fetch from."""
    digest: Digest | None = None
    """The digest of the manifest; `windlass pack` prints it."""


class Step(StrictDocument):
    """One step of a rollout: shadow or weight, held for a duration or until somebody approves."""

    model_config = _rules(
        ("!(has(self.shadow) && has(self.weight))", "a step has either shadow or weight, not both"),
        ("has(self.shadow) || has(self.weight) || has(self.pause)", "a step has a shadow, a weight or a pause"),
        (
            "!(has(self.duration) && has(self.pause))",
            "a step ends after a duration or by approval (pause), not both",
        ),
    )

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
    """How many requests have to be seen before a gate can pass; with fewer it is undecided."""
    max_error_rate: Percentage | None = None
    """The largest share of the candidate's answers that may be errors."""
    max_latency_ratio: Annotated[float, Field(ge=1)] | None = None
    """The candidate's p99 over the committed version's in the same time."""
    min_agreement: Percentage | None = None
    """The least share of shadowed requests that both versions have to answer alike."""


class Rollout(StrictDocument):
    """The passage from the committed version to this one."""

    mode: Mode = Mode.IN_PLACE
    """InPlace: loaded beside the old version in each running replica. Restart: by a rolling update of the Pods, for
    what doesn't fit beside it or lies in an image; on Kubernetes, where the operator may change Deployments
    (`restarts.enabled`)."""
    steps: Annotated[list[Step], Field(max_length=64)] = []
    """Taken one after the other. None: commit as soon as every replica is prepared."""
    gates: Gates = Gates()
    """What real traffic has to show before a step ends."""
    keep_previous: Duration = "10m"
    """How long the version before stays resident after a commit, as the way back."""
    progress_deadline: Duration = "10m"
    """For replicas to prepare; it runs only while we wait for that."""


class AcceptanceSource(StrictDocument):
    """Where the acceptance samples are, and how many of them have to be right."""

    model_config = _rules(
        (
            "[has(self.configMap), has(self.file), has(self.uri)].filter(given, given).size() == 1",
            "exactly one of configMap, file and uri is expected",
        ),
        ("!has(self.uri) || has(self.digest)", "samples from a uri need a digest"),
    )

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
    """Where to fetch them from; needs `digest`."""
    digest: Digest | None = None
    """Of the file's bytes; required with `uri`."""
    min_score: Percentage = "100%"
    """The least share of samples that have to be right."""

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
    """Inputs and the answers that the model's owner expects, tried before any traffic."""
    signature_change: SignatureChange = SignatureChange.REFUSE
    """Refuse: a version whose inputs or outputs break the committed version's clients is rejected."""


class ModelVersionSpec(StrictDocument):
    """What is wanted. `server`, `model`, `version` and `artifact` identify it and can't be edited."""

    model_config = _rules(_fixed("server"), _fixed("model"), _fixed("version"))

    server: ServerName
    """The server that gets it: replicas labelled `windlass.dev/server` with this name in the same namespace (Helm: the
    release's name; Compose, Swarm: the service; one machine: `--server`)."""
    model: ModelName
    """The model's name, as clients write it."""
    version: Version
    """The version's number; the highest one that is Active is wanted."""
    artifact: ArtifactSource
    """Where the files are, and what they have to be."""
    rollout: Rollout = Rollout()
    """How it takes over from the version that serves."""
    verify: Verification = Verification()
    """What is checked besides the files themselves."""
    state: State = State.ACTIVE
    """Active: wanted. Retired: not wanted any more; on the last one it ends the model's service."""


class ModelVersion(StrictDocument):
    """One version of one model on one server."""

    api_version: Literal["windlass.dev/v1alpha1"]
    kind: Literal["ModelVersion"]
    metadata: ObjectMeta
    spec: ModelVersionSpec
    """What is wanted; written by people, never by Windlass."""


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
    """What it is about."""
    status: ConditionStatus
    """Whether that is so."""
    reason: Annotated[str, like(r"^[A-Z][A-Za-z0-9]*$", "write one CamelCase word")]
    """Why, in one word for programs."""
    message: str = ""
    """Why, for people."""
    last_transition_time: str | None = None
    """RFC 3339, UTC; changes only with `status`."""
    observed_generation: int | None = None
    """The `metadata.generation` that it speaks of."""


class ReplicaCounts(StrictDocument):
    """How many replicas are where."""

    desired: int = 0
    """Those that take part."""
    prepared: int = 0
    """Those that hold this version, warm and checked."""
    committed: int = 0
    """Those that answer with it by default."""


class GateEvidence(StrictDocument):
    """What a gate saw, in one replica or over all of them."""

    gate: str
    """Which check."""
    result: Literal["Passed", "Failed", "Undecided"]
    """How it ended."""
    statistic: str = ""
    """What was measured."""
    replica: str = ""
    """Where; empty: over all of them."""


class DecisionTaken(StrictDocument):
    """What a person decided."""

    id: str
    """The decision's own."""
    action: str
    """approve, pause, resume, undo or clear."""
    by: str = ""
    """Who decided."""
    at: str = ""
    """When, as they said."""
    outcome: str = ""
    """What came of it."""


class ModelVersionStatus(StrictDocument):
    """What is true, following kstatus. Output only: nothing reads it back."""

    observed_generation: int | None = None
    """The `metadata.generation` that this status speaks of."""
    phase: str = "Pending"
    """One word for tables: Pending, Preparing, Paused, Serving, Previous, Superseded, RolledBack, Quarantined, Held,
    Stalled, Conflict, NotSupported, Retired. Programs read the conditions."""
    message: str = ""
    """The phase explained, with what to do."""
    digest: str | None = None
    """The digest that names the artifact."""
    step: str = ""
    """Where in `spec.rollout.steps` the rollout is."""
    weight: Annotated[int, Field(ge=0, le=1000)] = 0
    """Thousandths of the model's traffic."""
    replicas: ReplicaCounts = ReplicaCounts()
    """How many replicas are where."""
    way_back: str = ""
    """The version that a rollback would go to, or why there is none."""
    evidence: list[GateEvidence] = []
    """What the checks saw."""
    decisions: list[DecisionTaken] = []
    """What people decided, newest last."""
    conditions: list[Condition] = []
    """Following kstatus; programs read these."""
