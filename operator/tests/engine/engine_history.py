"""One history of a server: the steps that random histories are made of, and where it has to come to rest."""

from __future__ import annotations

from dataclasses import replace

from engine_builders import MODEL
from engine_promises import (
    check_commit,
    check_epoch,
    check_second_pass,
    check_serving,
    check_way_back,
    committed_digest,
    newest_plans,
)
from engine_simulation import Artifact, Deployment, Operator, Replica, Store, subscribed_at, wanted_version
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from windlass_contract.decision import DecisionSpec
from windlass_contract.plan import ModelPlan
from windlass_contract.record import ModelRecord
from windlass_contract.report import VersionState
from windlass_operator.engine.interface import Observation, SeenModelVersion, SeenReplica


class History(RuleBasedStateMachine):
    """What there is, and how each step of it is done; what can happen is said by the rules of who inherits."""

    def begin(self, orchestrated: bool) -> None:
        """Three replicas, two operators that both believe they hold the lease, no ModelVersion."""
        self.now = 1000.0
        self.orchestrated = orchestrated
        self.artifacts: dict[str, Artifact] = {}
        self.objects: dict[str, SeenModelVersion] = {}
        self.decisions: list[DecisionSpec] = []
        self.frozen = ""
        self.hidden: set[str] = set()
        self.store = Store()
        self.replicas = [Replica(name, self.artifacts) for name in ("a", "b", "c")]
        self.deployment = Deployment(self.artifacts, self.replicas) if orchestrated else None
        self.operators = [Operator(name, self.store, self.now) for name in ("x", "y")]
        self.tampered = False
        """The object was lost, edited or restored at some time: what no live report held may be lost."""
        self.taken: set[str] = set()
        self.condemned: set[str] = set()
        """Digests blocked by the newest write."""

    def readable_again(self) -> None:
        """Every ModelVersion can be read."""
        self.hidden.clear()
        self.frozen = ""

    def missing_files_arrive(self) -> None:
        """Whoever copies artifacts is done."""
        for each in self.artifacts.values():
            each.nature = "good" if each.nature == "missing" else each.nature

    def _edit(self, data: st.DataObject, change: dict) -> None:
        name = data.draw(st.sampled_from(sorted(self.objects)))
        seen = self.objects[name]
        document = seen.model_version.to_dict()
        document["spec"] |= change
        made = type(seen.model_version).model_validate(document)
        self.objects[name] = replace(seen, model_version=made, generation=seen.generation + 1)

    def _tampered(self) -> None:
        self.tampered = True
        self.condemned = set()

    def _exchange(self, replica: Replica, operator: Operator, *, take: bool = True) -> None:
        if replica.alive and replica.reachable:
            operator.hear(replica.report(), self.now)
            if take:
                replica.take(operator.published)

    def _visible(self) -> list[SeenModelVersion]:
        return [seen for name, seen in sorted(self.objects.items()) if name not in self.hidden]

    def _observe(self, operator: Operator) -> None:
        ready = tuple(SeenReplica(each.name, each.routed is not None) for each in self.replicas if each.alive)
        observation, outcome = operator.observe(
            self.now,
            self._visible(),
            self.decisions,
            ready if self.orchestrated else None,
            self.frozen,
            self.deployment,
        )
        check_second_pass(observation, outcome)
        check_epoch(observation, outcome)
        if outcome.write:
            check_commit(observation, outcome, subscribed_at(operator, self.now))
        if not outcome.gathering:
            check_way_back(observation, outcome, subscribed_at(operator, self.now))
            assert set(outcome.statuses) == {seen.name for seen in observation.model_versions}

    def _write(self, operator: Operator) -> None:
        pending = operator.pending
        if pending is None or not operator.write():
            return
        observation, outcome = pending
        assert outcome.plan is not None
        model = outcome.plan.models.get(MODEL, ModelPlan())
        check_serving(observation, model)
        self._check_blocks(observation, model)
        self._check_decisions(observation, model)

    def _check_blocks(self, observation: Observation, model: ModelPlan) -> None:
        """A verdict or a hold is never forgotten (no copy was lost), and nothing blocked is committed after it."""
        blocked = {each.digest for each in (*model.quarantine, *model.holds)}
        before = {committed_digest(each) for each in newest_plans(observation)}
        now = committed_digest(model)
        if now not in before:
            assert now not in blocked | self.condemned, f"DESIGN 4.4: {now} was committed, blocked"
        if not self.tampered:
            lifted = {each.digest for each in self.decisions if each.action == "clear"}
            assert self.condemned - blocked <= lifted or any(lifted), "DESIGN 4.4: a block went without a clear"
        self.condemned = blocked

    def _check_decisions(self, observation: Observation, model: ModelPlan) -> None:
        """A decision is remembered as long as what came of it is: with the history that it was taken in. Where two meet
        the one with the higher epoch goes on, and takes what was decided in the other one for itself."""
        taken = set(model.decisions)
        assert len(taken) == len(model.decisions), "DESIGN 4.7: a decision was taken twice"
        before = [set(each.decisions) for each in newest_plans(observation)]
        assert not before or any(each <= taken for each in before), f"DESIGN 4.7: of {before} some were forgotten"
        assert self.tampered or self.taken <= taken, "DESIGN 4.7: a decision was forgotten, and would be taken again"
        self.taken = taken

    def _round(self, seconds: float) -> None:
        self.now += seconds
        for replica in self.replicas:
            replica.run(seconds)
            for operator in self.operators:
                self._exchange(replica, operator)
        for operator in self.operators:
            operator.read()
            self._observe(operator)
            self._write(operator)
            operator.publish()
            self._patch(operator)
        self._deployment_acts()

    def _patch(self, operator: Operator) -> None:
        if self.deployment is not None:
            operator.patch(self.deployment)

    def _deployment_acts(self) -> None:
        if self.deployment is not None:
            self.deployment.act()

    def _settle(self) -> None:
        self.readable_again()
        self.missing_files_arrive()
        for replica in self.replicas:
            replica.reachable = True
            if not replica.alive:
                replica.restart(with_copy=True)
        for each in self.artifacts.values():
            each.load_seconds = 1.0
        quiet = 0
        for _ in range(200):
            before = self._changes()
            self._round(30.0)
            quiet = quiet + 1 if before == self._changes() else 0
            if quiet >= 8:
                return
        raise AssertionError("DESIGN 3: it never came to rest")

    def _changes(self) -> tuple[int, int]:
        return self.store.generation, 0 if self.deployment is None else self.deployment.changes

    def _check_rest(self) -> None:
        _, state = self.store.read()
        plans = {None if each.plan is None else (each.plan.epoch, each.plan.digest) for each in self.replicas}
        wanted_plan = None if state.plan is None else (state.plan.epoch, state.plan.digest)
        assert plans == {wanted_plan}, f"DESIGN 3, epochs: {plans} are followed, the object has {wanted_plan}"
        record = ModelRecord() if state.record is None else state.record.models.get(MODEL, ModelRecord())
        committed = None if record.committed is None else (record.committed.version, record.committed.digest)
        blocked = {each.digest for each in (*record.quarantine, *record.holds)}
        objects = [seen.model_version for seen in self.objects.values()]
        wanted = wanted_version(objects, blocked, committed, restarts=self.orchestrated)
        if record.rollout is not None:
            # Only a person can keep it from going on.
            candidate = (record.rollout.candidate.version, record.rollout.candidate.digest)
            assert candidate == wanted, f"DESIGN 4.1: {candidate} is rolled out, {wanted} is wanted"
            specs = [each.spec for each in objects if each.spec.artifact.digest == candidate[1]]
            waits = any(each.rollout.steps for each in specs if each.state == "Active")
            assert record.rollout.paused or waits, "DESIGN 4.1: a rollout hangs"
        elif wanted is not None:
            assert committed == wanted, f"DESIGN 4.1: {committed} is committed, {wanted} is wanted"
        if self.deployment is not None:
            revisions = {each.revision for each in self.replicas}
            stays = record.rollout is not None and record.rollout.revision
            assert stays or revisions == {self.deployment.revision}, f"{revisions} are left"
            assert len(self.replicas) == self.deployment.wanted or stays
        self._check_every_replica_serves(record)

    def _check_every_replica_serves(self, record: ModelRecord) -> None:
        committed = record.committed
        # Who was made to bring a version that somebody paused follows an entry of its own.
        revision = "" if record.rollout is None else record.rollout.revision
        theirs = [each for each in self.replicas if not revision or each.revision != revision]
        failing = [
            replica.name
            for replica in theirs
            if committed is not None and replica.held[committed.digest].state is VersionState.FAILED
        ]
        assert not failing or record.previous is None, f"DESIGN 4.4: it fails on {failing}, and nobody went back"
        for replica in theirs:
            if committed is None:
                assert replica.routed is None, f"{replica.name} answers, and nothing is committed"
                continue
            held = replica.held.get(committed.digest)
            failed = held is not None and held.state is VersionState.FAILED
            assert failed or replica.routed == committed.digest, f"{replica.name} doesn't answer by what is committed"
