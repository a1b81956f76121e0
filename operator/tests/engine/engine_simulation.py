"""A small world for the engine: replicas that take plans as real ones do, operators that may die between any two
steps, and one store with compare-and-swap. Time is a number. Nothing here decides anything about rollouts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine_builders import MODEL, PLAIN, SERVER, content, digest, signature
from engine_builders import failure as make_failure

from windlass_contract.control import SUBSCRIBED_SECONDS
from windlass_contract.decision import DecisionSpec
from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.model_version import ModelVersion
from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.record import RolloutRecordSet, ServerState
from windlass_contract.report import ModelReport, ServingReport, VersionReport, VersionState
from windlass_operator.engine import reconcile
from windlass_operator.engine.interface import (
    Observation,
    Outcome,
    SeenModelVersion,
    SeenReplica,
    SeenReport,
    SeenTemplate,
)

OTHER = {"serving_default": signature({"renamed": ("FP32", [-1, 4])}, {"y": ("FP32", [-1, 2])})}
DROPPED_AFTER = 120.0
"""Seconds of silence after which an operator forgets an instance."""


@dataclass
class Artifact:
    """What is in the files of one digest, and what happens to who loads them. It may be changed while it lies there."""

    nature: str = "good"
    """good, bad (a verdict at load), wrong (a verdict by samples), missing (files not there), slow, changed
    (other signatures)."""
    content_digest: str = ""
    load_seconds: float = 1.0


@dataclass
class Held:
    """A version in a replica."""

    version: int
    digest: str
    samples: str | None
    state: VersionState = VersionState.WAITING
    spent: float = 0.0
    failure: Failure | None = None

    @property
    def prepared(self) -> bool:
        return self.state is VersionState.PREPARED

    @property
    def resident(self) -> bool:
        """Whether there is a worker. One that failed has none, nor one whose turn hasn't come."""
        return self.state in {VersionState.LOADING, VersionState.PREPARED}


@dataclass
class Replica:
    """One replica. It obeys DESIGN 3: epochs only grow, the same epoch with another digest is refused, and who is told
    to serve what it doesn't hold goes on with what it has."""

    name: str
    artifacts: dict[str, Artifact]
    revision: str = ""
    """Of the template that it was made from."""
    instance: int = 0
    alive: bool = True
    reachable: bool = True
    sequence: int = 0
    plan: ServingPlan | None = None
    conflict: bool = False
    held: dict[str, Held] = field(default_factory=dict)
    routed: str | None = None
    """Digest of the version that answers."""
    broken: str | None = None
    """Digest of the version whose breaker is open; until the plan says something else about who serves."""
    broken_for: Reason = Reason.ERROR_RATE_EXCEEDED
    touched: bool = False
    """Something changed since the last report."""
    accepted: list[ServingPlan] = field(default_factory=list)
    """By this instance."""
    silenced: list[int] = field(default_factory=list)
    """Epochs of plans that took the model from clients here while it is served elsewhere."""

    @property
    def model(self) -> ModelPlan | None:
        """What of the plan is for it."""
        whole = None if self.plan is None else self.plan.models.get(MODEL)
        return None if whole is None else whole.of_revision(self.revision)

    @property
    def instance_id(self) -> str:
        return f"{self.name.encode().hex():0>4}{self.instance:08x}"

    def take(self, plan: ServingPlan | None) -> None:
        """Takes a plan, or doesn't."""
        if plan is None or (self.plan is not None and plan.epoch < self.plan.epoch):
            return
        if self.plan is not None and plan.epoch == self.plan.epoch:
            self.conflict = self.conflict or plan.digest != self.plan.digest
            return
        before = self.model
        self.plan, self.conflict, self.touched = plan, False, True
        if before is None or self.model is None or _who_serves(before) != _who_serves(self.model):
            self.broken = None
        self.accepted.append(plan)
        served = self.routed is not None
        self._make_room()
        self._route()
        whole = plan.models.get(MODEL)
        if served and self.routed is None and whole is not None and whole.committed is not None:
            self.silenced.append(plan.epoch)

    def restart(self, *, with_copy: bool) -> None:
        """A new instance, with or without the copy of its plan."""
        self.instance += 1
        self.sequence = 0
        self.alive, self.touched, self.conflict = True, True, False
        self.held, self.routed, self.accepted, self.broken = {}, None, [], None
        plan, self.plan = self.plan, None
        if with_copy:
            self.take(plan)

    def run(self, seconds: float) -> None:
        """Loads one version at a time, the committed one first."""
        if not self.alive or self.model is None:
            return
        self._make_room()
        self._add_missing()
        busy = False
        for planned in self.model.versions:
            held = self.held[planned.digest]
            others = sum(each.resident for each in self.held.values() if each is not held)
            # At most two versions are resident: who lags waits with the candidate.
            if not busy and others < 2:
                busy = self._load(held, seconds)
        self._route()

    def crash(self, digest_: str) -> None:
        """A resident version turns out to be broken for good."""
        held = self.held.get(digest_)
        if held is not None and held.prepared:
            held.state, held.failure = VersionState.FAILED, make_failure(Reason.WORKER_CRASHED)
            self.touched = True
            if self.routed == digest_:
                self.routed = None
            self._route()

    def break_committed(self, reason: Reason) -> None:
        """The committed version fails its clients: the previous one, if it is resident, answers from now on."""
        previous = self._planned_digest("previous")
        committed = self._planned_digest("committed")
        held = self.held.get(previous or "")
        if self.alive and committed is not None and self.routed == committed and held is not None and held.prepared:
            self.broken, self.broken_for, self.routed, self.touched = committed, reason, previous, True

    def _planned_digest(self, role: str) -> str | None:
        version = None if self.model is None else getattr(self.model, role)
        planned = None if self.model is None or version is None else self.model.planned(version)
        return None if planned is None else planned.digest

    def report(self) -> ServingReport:
        """What is true now."""
        self.sequence += 1
        self.touched = False
        models = {}
        if self.model is not None:
            versions = [self._version_report(held) for held in self.held.values()]
            routed = None if self.routed is None else self.held[self.routed]
            committed = self.model.committed
            models[MODEL] = ModelReport(
                versions=versions,
                serving={} if routed is None else {routed.version: 1000},
                lagging=committed is not None
                and routed is not None
                and self.broken is None
                and not self._is_committed(routed),
                breaker_open=self.broken is not None,
            )
        return ServingReport(
            server=SERVER,
            replica=self.name,
            instance=self.instance_id,
            sequence=self.sequence,
            plan=self.plan,
            revision=self.revision,
            plan_conflict=self.conflict,
            ready=self.routed is not None,
            models=models,
        )

    def _is_committed(self, held: Held) -> bool:
        model = self.model
        planned = None if model is None or model.committed is None else model.planned(model.committed)
        return planned is not None and planned.digest == held.digest

    def _make_room(self) -> None:
        """Unloads what the plan doesn't name, but not what answers until the committed version can."""
        wanted = {each.digest: each for each in (self.model.versions if self.model is not None else [])}
        for known, held in list(self.held.items()):
            planned = wanted.get(known)
            samples = planned.samples.digest if planned is not None and planned.samples is not None else None
            if planned is not None and samples not in {None, held.samples}:
                held.state, held.spent, held.samples, held.failure = VersionState.WAITING, 0.0, samples, None
            serves_on = known == self.routed and self.model is not None and self.model.committed is not None
            if planned is None and not serves_on:
                del self.held[known]
                self.routed = None if self.routed == known else self.routed

    def _add_missing(self) -> None:
        assert self.model is not None
        for planned in self.model.versions:
            if planned.digest not in self.held:
                samples = None if planned.samples is None else planned.samples.digest
                self.held[planned.digest] = Held(planned.version, planned.digest, samples)
                self.touched = True

    def _load(self, held: Held, seconds: float) -> bool:
        """Whether it is being loaded, so that the others wait."""
        artifact = self.artifacts[held.digest]
        if held.state in {VersionState.PREPARED, VersionState.FAILED}:
            return False
        if artifact.nature == "missing":
            held.failure = make_failure(Reason.NOT_FOUND, Gate.DIGEST)
            return False
        held.state, held.failure = VersionState.LOADING, None
        held.spent += seconds
        self.touched = True
        if held.spent < artifact.load_seconds:
            return True
        verdict = {"bad": Reason.LOAD_FAILED, "wrong": Reason.ACCEPTANCE_FAILED}.get(artifact.nature)
        held.state = VersionState.PREPARED if verdict is None else VersionState.FAILED
        held.failure = None if verdict is None else make_failure(verdict)
        return True

    def _route(self) -> None:
        """Changes over to the committed version as soon as it is prepared."""
        model = self.model
        if model is None:
            return
        if model.committed is None:
            self.routed = None
            self._make_room()
            return
        planned = model.planned(model.committed)
        held = None if planned is None else self.held.get(planned.digest)
        if self.broken is not None and self.broken == planned_digest_of(planned) and self.routed is not None:
            return
        if held is not None and held.prepared and self.routed != held.digest:
            self.routed = held.digest
            self.touched = True
            self._make_room()

    def _version_report(self, held: Held) -> VersionReport:
        artifact = self.artifacts[held.digest]
        verified = held.state not in {VersionState.WAITING, VersionState.VERIFYING}
        signatures = (OTHER if artifact.nature == "changed" else PLAIN) if held.prepared else {}
        return VersionReport(
            version=held.version,
            digest=held.digest if verified else None,
            content_digest=artifact.content_digest if verified else None,
            state=held.state,
            failure=held.failure,
            signatures=signatures,
            breaker=make_failure(self.broken_for) if held.digest == self.broken else None,
        )


def planned_digest_of(planned: PlannedVersion | None) -> str | None:
    return None if planned is None else planned.digest


def _who_serves(model: ModelPlan) -> object:
    return model.committed, model.previous, model.candidate, [(each.digest, each.weight) for each in model.versions]


@dataclass
class Deployment:
    """Makes replicas from a template: one more than wanted at most, and never less that answer."""

    artifacts: dict[str, Artifact]
    replicas: list[Replica]
    wanted: int = 3
    revision: str = ""
    """The template's."""
    changes: int = 0
    """Stands for its resource version."""

    def patch(self, changes: int, revision: str) -> None:
        """Only if it is still the one that was seen."""
        if changes == self.changes and revision != self.revision:
            self.revision, self.changes = revision, self.changes + 1

    def act(self) -> bool:
        """One step of its controller; whether there was one to take."""
        new = [each for each in self.replicas if each.revision == self.revision]
        old = [each for each in self.replicas if each.revision != self.revision]
        if len(new) < self.wanted and len(self.replicas) <= self.wanted:
            self.changes += 1
            self.replicas.append(Replica(f"p{self.changes}", self.artifacts, self.revision))
            return True
        answering = [each for each in self.replicas if each.alive and each.routed is not None]
        idle = [each for each in old if each not in answering]
        leaves = idle[:1] or (old[:1] if len(answering) > self.wanted else [])
        for each in leaves:
            self.changes += 1
            self.replicas.remove(each)
        return bool(leaves)


class Store:
    """One object with compare-and-swap. It keeps JSON, and every copy that it ever held."""

    def __init__(self) -> None:
        self.generation = 0
        self.content: dict | None = None
        self.history: list[dict] = []

    def read(self) -> tuple[int, ServerState]:
        state = ServerState(server=SERVER) if self.content is None else ServerState.parse(self.content, "store")
        return self.generation, state

    def swap(self, generation: int, plan: ServingPlan | None, record: RolloutRecordSet | None) -> bool:
        """Writes if the object is still the one that was read."""
        if generation != self.generation:
            return False
        self.replace(ServerState(server=SERVER, plan=plan, record=record).to_dict())
        assert self.content is not None
        self.history.append(self.content)
        return True

    def replace(self, content_: dict | None) -> None:
        """Whatever anybody does to it: the generation changes."""
        self.generation += 1
        self.content = content_


@dataclass
class Seen:
    """The last report of an instance, in an operator's memory."""

    report: ServingReport
    at: float


class Operator:
    """Observes, writes, publishes: each a step of its own, and it may die after any of them."""

    def __init__(self, name: str, store: Store, now: float) -> None:
        self.name = name
        self.store = store
        self.die(now)

    def die(self, now: float) -> None:
        """All that it had in memory is gone; the next one starts."""
        self.started = self.looked = now
        self.reports: dict[str, Seen] = {}
        self.generation, self.state = self.store.read()
        self.published: ServingPlan | None = None
        self.pending: tuple[Observation, Outcome] | None = None
        self.acknowledged: Outcome | None = None
        self.template: tuple[int, str] | None = None
        """The Deployment as it was seen, and the revision to give it."""

    def hear(self, report: ServingReport, now: float) -> None:
        """Takes a report; a late one of the same instance is dropped."""
        known = self.reports.get(report.instance)
        if known is None or known.report.sequence < report.sequence:
            self.reports[report.instance] = Seen(report, now)

    def observe(
        self,
        now: float,
        model_versions: Iterable[SeenModelVersion],
        decisions: Iterable[DecisionSpec],
        replicas: tuple[SeenReplica, ...] | None,
        frozen: str = "",
        deployment: Deployment | None = None,
    ) -> tuple[Observation, Outcome]:
        """One pass. What it decided waits to be written."""
        self.reports = {key: seen for key, seen in self.reports.items() if now - seen.at <= DROPPED_AFTER}
        observation = Observation(
            server=SERVER,
            model_versions=tuple(model_versions),
            record=self.state.record,
            plan=self.state.plan,
            reports=tuple(SeenReport(seen.report, now - seen.at) for seen in self.reports.values()),
            replicas=replicas,
            decisions=tuple(decisions),
            elapsed=now - self.looked,
            uptime=now - self.started,
            frozen=frozen,
            template=None if deployment is None else SeenTemplate(deployment.revision),
        )
        self.seen = 0 if deployment is None else deployment.changes
        outcome = reconcile(observation)
        self.looked = now
        self.pending = None
        self.acknowledged = None
        if outcome.write:
            self.pending = (observation, outcome)
        elif not outcome.gathering:
            self.state = self.state.model_copy(update={"record": outcome.record})
            self.acknowledged = outcome
        return observation, outcome

    def write(self) -> bool:
        """Writes what is pending. A conflict means: read again, and compute again."""
        if self.pending is None:
            return False
        _, outcome = self.pending
        self.pending = None
        if not self.store.swap(self.generation, outcome.plan, outcome.record):
            self.read()
            return False
        self.generation, self.state = self.store.read()
        self.acknowledged = outcome
        return True

    def read(self) -> None:
        """Looks at the object; what was computed from another is void."""
        generation, state = self.store.read()
        if generation != self.generation:
            self.generation, self.state = generation, state
            self.pending = self.acknowledged = None

    def publish(self) -> None:
        """Shows subscribers what was acknowledged."""
        if self.acknowledged is not None:
            self.published = self.acknowledged.plan
            if self.acknowledged.template is not None:
                self.template = self.seen, self.acknowledged.template.revision
            self.acknowledged = None

    def patch(self, deployment: Deployment) -> None:
        """Changes the template, after what it follows from was published."""
        if self.template is not None:
            deployment.patch(*self.template)
            self.template = None


def subscribed_at(operator: Operator, now: float) -> dict[str, ServingReport]:
    """The present instances that an operator hears, found without the engine's help."""
    newest: dict[str, Seen] = {}
    for seen in operator.reports.values():
        known = newest.get(seen.report.replica)
        if known is None or seen.at > known.at:
            newest[seen.report.replica] = seen
    return {name: seen.report for name, seen in newest.items() if now - seen.at <= SUBSCRIBED_SECONDS}


def wanted_version(
    objects: Iterable[ModelVersion], blocked: set[str], committed: tuple[int, str] | None, *, restarts: bool
) -> tuple[int, str] | None:
    """Rule 1, told once more in the plainest way: the highest version that is Active and not blocked. One that clashes
    or asks for what isn't supported can't be started; it counts only if it is committed already."""
    best = None
    specs = [each.spec for each in objects]
    for spec in specs:
        name = (spec.version, spec.artifact.digest)
        rivals = {each.artifact.digest for each in specs if each.version == spec.version} | (
            {committed[1]} if committed is not None and committed[0] == spec.version else set()
        )
        twins = [each for each in specs if (each.version, each.artifact.digest) == name and each.state == "Active"]
        startable = len(rivals) == 1 and not any(step.weight for each in twins for step in each.rollout.steps)
        startable = startable and (restarts or not any(each.rollout.mode == "Restart" for each in twins))
        if spec.state == "Active" and name[1] not in blocked and (startable or name == committed):
            best = max(filter(None, [best, name]))
    return best


def artifact(version: int, variant: int, nature: str, *, same_as: int | None = None) -> tuple[str, Artifact]:
    """Digest and contents of a version's files."""
    number = version * 10 + variant if same_as is None else same_as
    return digest(version, variant), Artifact(nature, content(number), 40.0 if nature == "slow" else 1.0)
