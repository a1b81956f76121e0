"""Whether the replica lives, may get traffic and is healthy: pure decisions over `Facts`.

Nothing outside the process counts for being live, and nothing that this replica can't mend itself makes it unready
once it was ready: a lost database, a candidate that fails or an operator out of reach only degrade it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal, Protocol

from windlass_contract.health import Health
from windlass_contract.report import VersionState

MAX_LOOP_LAG_SECONDS = 30.0
"""A heartbeat that is this late means that the event loop doesn't turn."""

Database = Literal["ok", "unavailable", "disabled"]


class HealthSource(Protocol):
    """What the health endpoints ask. All methods belong to the event loop's thread and don't block it."""

    def live(self) -> tuple[bool, list[str]]:
        """Whether the process turns; if not, why."""
        ...

    def ready(self) -> tuple[bool, list[str]]:
        """Whether it may get traffic; if not, why."""
        ...

    def health(self) -> Health:
        """The body of `/health`; `http_status` has its code."""
        ...


class PlanSource(StrEnum):
    """Where the plan comes from, as far as it is known by now."""

    OPERATOR = "Operator"
    """An operator, or the durable plan it wrote, gave one."""
    NO_PLAN = "NoPlan"
    """The operator has answered that there is none for this server."""
    WAITING = "Waiting"
    """No plan, and no operator in reach."""
    UNMANAGED = "Unmanaged"
    """Started without a plan source: the replica chooses for itself."""


@dataclass(frozen=True)
class VersionFacts:
    """One version that the plan names."""

    version: int
    state: VersionState
    gets_traffic: bool
    """The plan gives it a weight above 0."""
    message: str = ""
    """Why it isn't prepared."""


@dataclass(frozen=True)
class ModelFacts:
    """One model that the plan names."""

    versions: tuple[VersionFacts, ...] = ()
    answers: bool = False
    """A living version is routed."""
    held_back: bool = False
    """It is served, but not by replicas of this Pod template's revision until one of them has proven its version."""

    @property
    def gets_traffic(self) -> bool:
        """Whether the plan wants it served here."""
        return any(version.gets_traffic for version in self.versions)


@dataclass(frozen=True)
class Facts:
    """Everything that health is decided from, at one moment."""

    source: PlanSource
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    was_ready: bool = False
    """It has been ready once since its start."""
    draining: bool = False
    loop_lag_seconds: float = 0.0
    stuck: tuple[str, ...] = ()
    """Workers that take requests and don't answer, each in a sentence."""
    database: Database = "disabled"
    database_problem: str = ""
    """Why the database is unavailable, in a sentence."""
    notes: tuple[str, ...] = ()
    """What else is amiss, each in a sentence with its remedy."""
    epoch: int | None = None
    instance: str | None = None
    confinement: Mapping[str, str] = field(default_factory=dict)
    """Of workers, as the newest said."""


def live(facts: Facts) -> tuple[bool, list[str]]:
    """The event loop turns and no worker is stuck; nothing outside the process counts."""
    reasons = list(facts.stuck)
    if facts.loop_lag_seconds > MAX_LOOP_LAG_SECONDS:
        reasons.insert(0, f"the event loop stood still for {facts.loop_lag_seconds:.0f} s")
    return not reasons, reasons


def ready(facts: Facts) -> tuple[bool, list[str]]:
    """First: every version that the plan gives traffic to is prepared. Once it was ready: any model can answer."""
    if facts.draining:
        return False, ["it is stopping: requests are finished, new ones belong elsewhere"]
    held_back = [_held_back(name, model) for name, model in sorted(facts.models.items()) if model.held_back]
    if held_back and not facts.was_ready:
        return False, held_back
    wanted = {name: model for name, model in facts.models.items() if model.gets_traffic}
    if not wanted:
        return False, [_nothing_to_serve(facts)]
    missing = [reason for name, model in sorted(wanted.items()) for reason in _missing(name, model)]
    if not facts.was_ready:
        return not missing, missing
    if any(model.answers for model in facts.models.values()):
        return True, []
    return False, missing or ["no model has a living version"]


def health(facts: Facts, now: datetime) -> Health:
    """The body of `/health`: see `http_status` for which of its statuses count as healthy."""
    status, reasons = _status(facts)
    wanted = [model for model in facts.models.values() if model.gets_traffic]
    return Health(
        status=status,
        database=facts.database,
        model=_model_word(wanted),
        timestamp=now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        reasons=reasons,
        epoch=facts.epoch,
        instance=facts.instance,
        confinement=dict(facts.confinement),
        models={
            name: {str(version.version): str(version.state) for version in model.versions}
            for name, model in sorted(facts.models.items())
        },
    )


def http_status(body: Health) -> int:
    """200 when nobody has to do anything about this process, else 503."""
    return 200 if body.status in {"ok", "degraded"} else 503


def _status(facts: Facts) -> tuple[Literal["ok", "starting", "degraded", "unavailable", "draining"], list[str]]:
    alive, reasons = live(facts)
    if not alive:
        return "unavailable", reasons
    is_ready, why_not = ready(facts)
    if facts.draining:
        return "draining", why_not
    ailing = _ailing(facts)
    if not facts.was_ready and not is_ready:
        if _content_with_nothing(facts):
            return ("degraded" if ailing else "ok"), ailing
        return "starting", [*why_not, *ailing]
    for name, model in sorted(facts.models.items()):
        if model.gets_traffic and not model.answers:
            ailing += _missing(name, model) or [f"model {name} has no living version"]
        elif model.gets_traffic:
            # Another version answers for it meanwhile; one that is just being loaded is nothing to speak of.
            ailing += _missing(name, model, only_failing=True)
    return ("degraded" if ailing else "ok"), ailing


def _content_with_nothing(facts: Facts) -> bool:
    """Nothing to serve, and that is known to be meant so."""
    if facts.source is PlanSource.NO_PLAN:
        return True
    wanted = any(model.gets_traffic or model.held_back for model in facts.models.values())
    return facts.source is PlanSource.OPERATOR and not wanted


def _ailing(facts: Facts) -> list[str]:
    reasons = list(facts.notes)
    if facts.database == "unavailable":
        reasons.append(facts.database_problem or "the prediction log's database is away")
    return reasons


def _missing(name: str, model: ModelFacts, *, only_failing: bool = False) -> list[str]:
    return [
        f"version {version.version} of model {name} is {version.state}"
        + (f": {version.message}" * bool(version.message))
        for version in model.versions
        if version.gets_traffic and version.state is not VersionState.PREPARED and (version.message or not only_failing)
    ]


def _held_back(name: str, model: ModelFacts) -> str:
    what = ", ".join(f"version {each.version} is {each.state}" for each in model.versions)
    return f"model {name} waits until its version is proven on a first new Pod: {what}"


def _nothing_to_serve(facts: Facts) -> str:
    match facts.source:
        case PlanSource.NO_PLAN:
            return "the operator has no plan for this server: apply a ModelVersion that names it"
        case PlanSource.WAITING:
            return (
                "there is neither a plan nor an operator in reach: check --operator, the control token and --plan-file"
            )
        case PlanSource.UNMANAGED:
            return "no model has a complete version: copy one to the models folder (windlass pack makes it)"
        case PlanSource.OPERATOR:
            return "the plan gives no version traffic: apply a ModelVersion"


def _model_word(wanted: list[ModelFacts]) -> Literal["ok", "none", "loading", "unavailable"]:
    if not wanted:
        return "none"
    if all(model.answers for model in wanted):
        return "ok"
    silent = [version for model in wanted if not model.answers for version in model.versions if version.gets_traffic]
    if any(version.state is VersionState.FAILED for version in silent):
        return "unavailable"
    return "loading"


class ReplicaHealth:
    """Implements `HealthSource` over facts gathered anew for each question, and remembers the first ready."""

    def __init__(self, gather: Callable[[bool], Facts], now: Callable[[], datetime]) -> None:
        """`gather` takes whether it was ready before."""
        self._gather = gather
        self._now = now
        self._was_ready = False
        self.ready_once = asyncio.Event()
        """Set by the first ready."""

    def live(self) -> tuple[bool, list[str]]:
        """See `live`."""
        return live(self._facts())

    def ready(self) -> tuple[bool, list[str]]:
        """See `ready`. To be called at each change of the routing too, so that the first ready isn't missed."""
        answer = ready(self._facts())
        if answer[0]:
            self._was_ready = True
            self.ready_once.set()
        return answer

    def health(self) -> Health:
        """See `health`."""
        self.ready()
        return health(self._facts(), self._now())

    def _facts(self) -> Facts:
        return self._gather(self._was_ready)
