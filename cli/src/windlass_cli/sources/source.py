"""What the commands see of servers, models and versions, wherever it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from windlass_contract.decision import Decision
from windlass_contract.model_version import ModelVersion, ModelVersionStatus
from windlass_contract.record import ModelRecord, ServerState
from windlass_contract.report import ServingReport, VersionReport


@dataclass(frozen=True)
class SeenVersion:
    """A ModelVersion and what is true of it."""

    name: str
    document: ModelVersion | None
    """None: its document can't be read, `problem` says why."""
    status: ModelVersionStatus | None = None
    """None: no operator has looked at it yet."""
    origin: str = ""
    """The file, where there is one."""
    problem: str = ""

    @property
    def phase(self) -> str:
        """One word for tables; `Unknown` when no operator has said anything."""
        return self.status.phase if self.status else "Unreadable" if self.problem else "Unknown"

    def to_dict(self) -> dict[str, Any]:
        """As one object, the way `kubectl get -o yaml` shows it."""
        value: dict[str, Any] = (
            self.document.to_dict()
            if self.document
            else {"apiVersion": "windlass.dev/v1alpha1", "kind": "ModelVersion", "metadata": {"name": self.name}}
        )
        if self.status is not None:
            value["status"] = self.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        return value


@dataclass(frozen=True)
class SeenEvent:
    """Something that happened."""

    at: str
    """RFC 3339, UTC."""
    server: str
    model_version: str
    type: str
    """Normal or Warning."""
    reason: str
    message: str


@dataclass(frozen=True)
class Snapshot:
    """Everything, at one moment."""

    versions: tuple[SeenVersion, ...] = ()
    """Sorted by server, model and falling version."""
    states: dict[str, ServerState] = field(default_factory=dict)
    """Server to its plan and record."""
    reports: dict[str, tuple[ServingReport, ...]] = field(default_factory=dict)
    """Server to the last report of each instance, where they are shown."""
    events: tuple[SeenEvent, ...] = ()
    """Oldest first."""
    problems: tuple[str, ...] = ()
    """What couldn't be read, each with its remedy."""

    def version(self, name: str) -> SeenVersion | None:
        """By the ModelVersion's name."""
        return next((each for each in self.versions if each.name == name), None)

    def record(self, server: str, model: str) -> ModelRecord | None:
        """What is remembered about a model."""
        state = self.states.get(server)
        return state.record.models.get(model) if state and state.record else None

    def in_replicas(self, server: str, model: str, version: int) -> list[tuple[ServingReport, VersionReport]]:
        """What each replica says of a version."""
        found = ((report, report.version(model, version)) for report in self.reports.get(server, ()))
        return [(report, each) for report, each in found if each is not None]


class Source(Protocol):
    """A directory, or a cluster."""

    @property
    def place(self) -> str:
        """What to call it."""
        ...

    def snapshot(self) -> Snapshot:
        """Reads everything. Raises `UserError`."""
        ...

    def fingerprint(self) -> object:
        """Another one means that `snapshot` may give something new; cheap enough to ask several times a second."""
        ...

    def decide(self, decision: Decision) -> str:
        """Hands a decision over and says where it is. Raises `UserError`."""
        ...
