"""What the rollout engine is told, and what it answers. Both drivers speak these types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from windlass_contract.decision import DecisionSpec
from windlass_contract.model_version import ModelVersion, ModelVersionStatus
from windlass_contract.plan import ServingPlan
from windlass_contract.record import PodTemplate, RolloutRecordSet
from windlass_contract.report import ServingReport


@dataclass(frozen=True)
class SeenModelVersion:
    """A ModelVersion as it stands now."""

    model_version: ModelVersion
    generation: int = 1
    samples_digest: str | None = None
    """Of the acceptance samples' bytes, once they were read and are valid; None while they are not."""
    samples_problem: str = ""
    """Why the acceptance samples that it asks for can't be had."""

    @property
    def name(self) -> str:
        """The object's name; unique among those of one server."""
        return self.model_version.metadata.name


@dataclass(frozen=True)
class SeenReport:
    """The last report of one instance."""

    report: ServingReport
    age: float
    """Seconds since it was received, by the operator's monotonic clock."""
    known_for: float = 0.0
    """Seconds since this operator received the instance's first report."""


@dataclass(frozen=True)
class SeenReplica:
    """A replica as the orchestrator sees it."""

    name: str
    """As in the report's `replica`."""
    ready: bool
    """Whether the orchestrator sends it traffic."""


@dataclass(frozen=True)
class SeenTemplate:
    """The template that the replicas are made from, by an orchestrator that updates them one after the other."""

    revision: str
    """As it is now; empty: none that we gave it."""
    problem: str = ""
    """Why it can't be changed; empty: it can."""
    image: str = ""
    """Of the image volume that the models are in; empty: there is none."""


@dataclass(frozen=True)
class Observation:
    """Everything that one pass over a server looks at."""

    server: str
    model_versions: tuple[SeenModelVersion, ...]
    record: RolloutRecordSet | None
    """As last read from, or acknowledged by, the durable object; None: there is no object."""
    plan: ServingPlan | None
    """From the same object."""
    reports: tuple[SeenReport, ...]
    """Of all instances heard of since the operator's start (driver drops those silent for minutes)."""
    replicas: tuple[SeenReplica, ...] | None
    """None: there is no orchestrator to ask."""
    decisions: tuple[DecisionSpec, ...]
    """All that can be seen, taken ones too, in the order in which they are to be taken."""
    elapsed: float
    """Seconds since this operator's previous pass over the server, by its monotonic clock; 0 at the first."""
    uptime: float
    """Seconds since the operator began to act."""
    template: SeenTemplate | None = None
    """None: there is none, and rollouts in mode Restart can't be carried out."""
    frozen: str = ""
    """Why the set of ModelVersions can't be trusted (an unreadable file, named): nothing is started or ended by it."""


@dataclass(frozen=True)
class Event:
    """Something that happened, for people."""

    model_version: str
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Outcome:
    """What one pass decided."""

    record: RolloutRecordSet | None
    plan: ServingPlan | None
    """None: there is nothing to plan (no ModelVersion was ever started on this server)."""
    write: bool
    """Record and plan differ from the observed ones in a way that has to be written, in one write, before the plan
    is shown to anybody and before statuses and events go out. False: keep `record` in memory only (clocks ran)."""
    statuses: dict[str, ModelVersionStatus] = field(default_factory=dict)
    """By name of the ModelVersion; conditions without `lastTransitionTime`, which the driver fills."""
    events: tuple[Event, ...] = ()
    """To be shown once, after the write succeeded."""
    renewed: tuple[str, ...] = ()
    """Models whose candidate's weight may be renewed."""
    template: PodTemplate | None = None
    """What to make of the Pod template, after the write succeeded; None: leave it as it is."""
    revisit_after: float | None = None
    """Seconds after which something may change by time alone; None: only by news."""
    gathering: bool = False
    """Just started: it changes nothing until the replicas were heard. There are no statuses then: keep those shown."""
    remarks: tuple[str, ...] = ()
    """What is to be said of the server itself, each in a sentence: a model that is served without a ModelVersion, or
    one that isn't served although a ModelVersion wants it."""
