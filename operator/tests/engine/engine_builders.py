"""Short ways to write observations, for the tests of the engine."""

from __future__ import annotations

from typing import Any

from windlass_contract.decision import DecisionSpec
from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.manifest import Signature
from windlass_contract.model_version import ModelVersion
from windlass_contract.plan import ServingPlan
from windlass_contract.record import ModelRecord, RolloutRecordSet, ServerState
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

SERVER = "cats"
MODEL = "cats-dogs"


def digest(version: int, variant: int = 0) -> str:
    """Of the manifest of a version; other variants are other files."""
    return f"sha256:{variant:032x}{version:032x}"


def content(number: int) -> str:
    """Of the files of a version."""
    return f"sha256:c{number:063x}"


def signature(inputs: dict[str, tuple[str, list[int] | None]], outputs: dict[str, tuple[str, list[int] | None]]):
    """A signature from name to element type and shape."""
    spec = lambda tensors: {name: {"datatype": kind, "shape": shape} for name, (kind, shape) in tensors.items()}  # noqa: E731
    return Signature.model_validate({"inputs": spec(inputs), "outputs": spec(outputs)})


PLAIN = {"serving_default": signature({"x": ("FP32", [-1, 4])}, {"y": ("FP32", [-1, 2])})}


def model_version(
    version: int,
    *,
    variant: int = 0,
    name: str = "",
    state: str = "Active",
    uri: str = "volume://",
    model: str = MODEL,
    rollout: dict[str, Any] | None = None,
    verify: dict[str, Any] | None = None,
    samples_digest: str | None = None,
    samples_problem: str = "",
    with_digest: bool = True,
    generation: int = 1,
) -> SeenModelVersion:
    """A ModelVersion as the engine sees it."""
    artifact = {"uri": uri} | ({"digest": digest(version, variant)} if with_digest else {})
    document = {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": name or f"{model}-{version}"},
        "spec": {
            "server": SERVER,
            "model": model,
            "version": version,
            "artifact": artifact,
            "state": state,
            "rollout": rollout or {},
            "verify": verify or {},
        },
    }
    return SeenModelVersion(ModelVersion.parse(document, "test"), generation, samples_digest, samples_problem)


def decision(action: str, version: int, *, id: str = "", variant: int = 0, step: int | None = None) -> DecisionSpec:  # noqa: A002
    """What a person decided."""
    extra = {} if step is None else {"step": step}
    return DecisionSpec(
        id=id or f"{action}-{version}",
        action=action,
        server=SERVER,
        model=MODEL,
        version=version,
        digest=digest(version, variant),
        by="Ada",
        **extra,
    )


def failure(reason: Reason, gate: Gate = Gate.LOAD) -> Failure:
    """Why a version can't answer."""
    return Failure(gate=gate, reason=reason, message=f"it is {reason}")


class Cluster:
    """Replicas that do at once what the plan says, an operator that never dies, and a store that never loses: the
    world of the table tests. What goes wrong is said per version in `failures`, `states` and so on."""

    def __init__(self, *replicas: str, orchestrated: bool = False) -> None:
        self.replicas = list(replicas)
        self.orchestrated = orchestrated
        self.silent: set[str] = set()
        self.lagging: set[str] = set()
        self.broken: set[str] = set()
        """Replicas on which the committed version's breaker is open."""
        self.breakers: dict[tuple[str, int], Failure] = {}
        """Why a replica took a version's traffic away."""
        self.failures: dict[tuple[str, int], Failure] = {}
        self.states: dict[tuple[str, int], VersionState] = {}
        self.signatures: dict[int, dict[str, Signature]] = {}
        self.contents: dict[int, str] = {}
        self.progress: dict[tuple[str, int], float] = {}
        """Of versions that are being fetched."""
        self.fetches: list[str] = []
        """Schemes that the replicas' fetcher may use."""
        self.extra_reports: list[SeenReport] = []
        self.reports: dict[str, SeenReport] = {}
        self.model_versions: list[SeenModelVersion] = []
        self.decisions: list[DecisionSpec] = []
        self.frozen = ""
        self.template: SeenTemplate | None = None
        """Of a Deployment; `restart` does what its controller does."""
        self.revisions: dict[str, str] = {}
        """Replica to the revision of the template that it was made from."""
        self.record: RolloutRecordSet | None = None
        self.plan: ServingPlan | None = None
        self.outcome: Outcome | None = None
        self.events: list[str] = []

    @property
    def model(self) -> ModelRecord:
        """The record of the one model."""
        assert self.record is not None
        return self.record.models[MODEL]

    @property
    def committed(self) -> int | None:
        """The committed version's number."""
        committed = self.model.committed if self.record is not None and MODEL in self.record.models else None
        return None if committed is None else committed.version

    def status(self, version: int, name: str = ""):
        """The status that was last shown."""
        assert self.outcome is not None
        return self.outcome.statuses[name or f"{MODEL}-{version}"]

    def condition(self, version: int, kind: str) -> tuple[str, str]:
        """Status and reason of a condition."""
        found = next(each for each in self.status(version).conditions if each.type == kind)
        return found.status.value, found.reason

    def report(self, replica: str) -> SeenReport:
        """What a replica says now, following the plan."""
        revision = self.revisions.get(replica, "")
        model = None if self.plan is None else self.plan.models.get(MODEL)
        planned = [] if model is None else model.of_revision(revision).versions
        versions = []
        for each in planned:
            key = (replica, each.version)
            wrong = self.failures.get(key)
            state = self.states.get(key, VersionState.PREPARED)
            if wrong is not None:
                state = VersionState.FAILED if wrong.is_verdict else VersionState.WAITING
            versions.append(
                VersionReport(
                    version=each.version,
                    digest=each.digest,
                    content_digest=self.contents.get(each.version, content(each.version)),
                    state=state,
                    failure=wrong,
                    progress=self.progress.get(key),
                    breaker=self.breakers.get(key),
                    signatures=self.signatures.get(each.version, PLAIN) if state is VersionState.PREPARED else {},
                )
            )
        serving = {each.version: each.weight for each in planned if each.weight}
        broken = replica in self.broken or any((replica, each.version) in self.breakers for each in planned)
        return SeenReport(
            ServingReport(
                server=SERVER,
                replica=replica,
                instance="0" * 8,
                sequence=1,
                plan=self.plan,
                revision=revision,
                ready=True,
                fetches=self.fetches,
                models={
                    MODEL: ModelReport(
                        versions=versions, serving=serving, lagging=replica in self.lagging, breaker_open=broken
                    )
                },
            ),
            age=0.5,
        )

    def observe(self, elapsed: float) -> Observation:
        """What the engine would be told."""
        for replica in self.replicas:
            if replica not in self.silent:
                self.reports[replica] = self.report(replica)
            elif replica in self.reports:
                self.reports[replica] = SeenReport(self.reports[replica].report, 60.0)
        return Observation(
            server=SERVER,
            model_versions=tuple(self.model_versions),
            record=self.record,
            plan=self.plan,
            reports=(*self.reports.values(), *self.extra_reports),
            replicas=tuple(SeenReplica(name, ready=True) for name in self.replicas) if self.orchestrated else None,
            decisions=tuple(self.decisions),
            elapsed=elapsed,
            uptime=100.0,
            frozen=self.frozen,
            template=self.template,
        )

    def once(self, elapsed: float = 1.0) -> Outcome:
        """One pass, written to a store that only keeps JSON."""
        self.outcome = reconcile(self.observe(elapsed))
        state = ServerState(server=SERVER, plan=self.outcome.plan, record=self.outcome.record)
        back = ServerState.parse(state.to_dict(), "store")
        self.record, self.plan = back.record, back.plan
        self.events += [event.reason for event in self.outcome.events]
        if self.template is not None and self.outcome.template is not None:
            made = self.outcome.template
            self.template = SeenTemplate(made.revision, self.template.problem, made.image or self.template.image)
        return self.outcome

    def restart(self, old: str, new: str) -> None:
        """A replica of the template as it is now takes another's place."""
        assert self.template is not None
        self.replicas[self.replicas.index(old)] = new
        self.reports.pop(old, None)
        self.revisions[new] = self.template.revision

    def settle(self, passes: int = 20) -> Outcome:
        """Passes until nothing is written any more."""
        for _ in range(passes):
            if not self.once().write:
                break
        assert self.outcome is not None
        return self.outcome

    def serves(self, *versions: SeenModelVersion) -> Cluster:
        """Starts with these, one after the other, settled."""
        for each in versions:
            self.model_versions.append(each)
            self.settle()
        return self
