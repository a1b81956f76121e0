"""People's decisions: each has an id of its own, names digest and step, and is taken into the record once.

On a directory a decision is a file `<ModelVersion>.<id>.decision.yaml` beside the ModelVersion; on a cluster it is
the annotation `decisions.windlass.dev/<id>` of the ModelVersion with `spec` as JSON.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .document import StrictDocument
from .identifiers import Digest, ModelName, ObjectName, ServerName, Version

DECISION_SUFFIX = ".decision.yaml"


class Action(StrEnum):
    """What can be decided."""

    APPROVE = "approve"
    """Go on from the pause that the rollout waits at."""
    PAUSE = "pause"
    """Stop the rollout where it is."""
    RESUME = "resume"
    """Let a paused rollout go on."""
    UNDO = "undo"
    """Go back from this version: end its rollout, or bring the previous version back; holds its digest."""
    CLEAR = "clear"
    """Lift quarantine or hold of this version's digest."""


DecisionId = ServerName
"""A name as a server's: it stands in the file's name and in an annotation's key."""


class DecisionSpec(StrictDocument):
    """One decision about one version. It counts only while `digest` (and `step`, if given) are what is there."""

    id: DecisionId
    action: Action
    server: ServerName
    model: ModelName
    version: Version
    digest: Digest
    step: Annotated[int, Field(ge=0, strict=True)] | None = None
    by: Annotated[str, Field(max_length=256)] = ""
    at: Annotated[str, Field(max_length=64)] = ""
    """RFC 3339; for people, nothing is decided by it."""
    reason: Annotated[str, Field(max_length=1024)] = ""


class DecisionMeta(StrictDocument):
    """Names the ModelVersion that the decision is about."""

    name: ObjectName


class Decision(StrictDocument):
    """The file."""

    api_version: Literal["windlass.dev/v1alpha1"]
    kind: Literal["Decision"]
    metadata: DecisionMeta
    spec: DecisionSpec
