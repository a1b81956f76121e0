"""Random histories of everything that can happen to a server, with the promises of the design checked in every state.

`HYPOTHESIS_PROFILE=soak` tries many more and longer ones. A failure prints what to paste to see it again.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from engine_builders import MODEL, decision, digest, model_version
from engine_history import History
from engine_simulation import artifact
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from windlass_contract.failures import Reason
from windlass_contract.record import ModelRecord

VERSIONS = st.integers(1, 4)
NATURES = st.sampled_from(["good"] * 5 + ["bad", "wrong", "missing", "slow", "changed"])
REPLICAS = st.integers(0, 2)
OPERATORS = st.integers(0, 1)
BREAKERS = st.sampled_from([Reason.ERROR_RATE_EXCEEDED, Reason.WONT_FIT])
STEPS = st.sampled_from(
    [
        {},
        {},
        {},
        {"steps": [{"pause": {}}]},
        {"steps": [{"weight": "5%"}]},
        {"keepPrevious": "5s"},
        {"mode": "Restart"},
    ]
)


class Rollouts(History):
    """Three replicas, two operators that both believe they hold the lease, one object."""

    @initialize(orchestrated=st.booleans(), first=st.sampled_from(["good", "good", "good", ""]))
    def start(self, orchestrated: bool, first: str) -> None:
        """Most histories begin with a version that serves."""
        self.begin(orchestrated)
        if first:
            self.new_model_version(1, first, {}, 0)
            self.an_ordinary_while(6)

    # --- what people do ------------------------------------------------------------------------------------

    @rule(version=VERSIONS, nature=NATURES, rollout=STEPS, variant=st.sampled_from([0, 0, 0, 1]))
    def new_model_version(self, version: int, nature: str, rollout: dict, variant: int) -> None:
        """Also: a clash, when the number is taken."""
        known, made = artifact(version, variant, nature)
        self.artifacts.setdefault(known, made)
        seen = model_version(version, variant=variant, rollout=rollout, name=f"v{version}-{variant}")
        self.objects[seen.name] = seen

    @rule(nature=NATURES, rollout=STEPS, rounds=st.integers(0, 5))
    def newest_model_version(self, nature: str, rollout: dict, rounds: int) -> None:
        """What people do most: a higher number, and some time for it."""
        version = 1 + max((seen.model_version.spec.version for seen in self.objects.values()), default=0)
        self.new_model_version(version, nature, rollout, 0)
        self.an_ordinary_while(rounds)

    @precondition(lambda self: self.orchestrated)
    @rule(nature=NATURES, rounds=st.integers(0, 16))
    def newest_model_version_by_restart(self, nature: str, rounds: int) -> None:
        """It takes long: Pod after Pod, and who is gone counts until he is silent for long enough."""
        self.newest_model_version(nature, {"mode": "Restart"}, rounds)

    @precondition(lambda self: self.decisions or self.objects)
    @rule(rounds=st.integers(0, 3))
    def what_was_committed_last_is_undone(self, rounds: int) -> None:
        _, state = self.store.read()
        record = None if state.record is None else state.record.models.get(MODEL)
        if record is not None and record.committed is not None:
            ref = record.committed
            number = len(self.decisions)
            self.decisions.append(decision("undo", ref.version, variant=int(ref.digest[7:39], 16), id=f"undo-{number}"))
            self.an_ordinary_while(rounds)

    @rule(version=VERSIONS, of=VERSIONS)
    def same_files_packed_anew(self, version: int, of: int) -> None:
        original = self.artifacts.get(digest(of))
        if original is not None and version > of and digest(version, 2) not in self.artifacts:
            self.artifacts[digest(version, 2)] = replace(original)
            self.objects[f"v{version}-2"] = model_version(version, variant=2, name=f"v{version}-2")

    @precondition(lambda self: self.objects)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        del self.objects[data.draw(st.sampled_from(sorted(self.objects)))]

    @precondition(lambda self: self.objects)
    @rule(data=st.data(), state=st.sampled_from(["Retired", "Retired", "Active"]))
    def retire_or_activate(self, data: st.DataObject, state: str) -> None:
        self._edit(data, {"state": state})

    @precondition(lambda self: self.objects)
    @rule(data=st.data(), rollout=STEPS)
    def edit_rollout(self, data: st.DataObject, rollout: dict) -> None:
        self._edit(data, {"rollout": rollout})

    @precondition(lambda self: self.objects)
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.objects)))
        seen = self.objects.pop(name)
        document = seen.model_version.to_dict()
        document["metadata"]["name"] = f"{name}x"
        self.objects[f"{name}x"] = replace(seen, model_version=type(seen.model_version).model_validate(document))

    @precondition(lambda self: self.objects)
    @rule(data=st.data())
    def unreadable_file(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.objects)))
        self.hidden.add(name)
        self.frozen = f"{name}.yaml can't be read"

    @rule()
    def all_can_be_read_again(self) -> None:
        self.readable_again()

    @precondition(lambda self: self.objects)
    @rule(data=st.data(), action=st.sampled_from(["undo", "undo", "clear", "approve", "approve", "pause", "resume"]))
    def decide(self, data: st.DataObject, action: str) -> None:
        spec = self.objects[data.draw(st.sampled_from(sorted(self.objects)))].model_version.spec
        variant = int(spec.artifact.digest[7:39], 16)
        number = len(self.decisions)
        self.decisions.append(decision(action, spec.version, variant=variant, id=f"{action}-{number}"))

    # --- what happens to replicas --------------------------------------------------------------------------

    @rule(index=REPLICAS, with_copy=st.booleans())
    def replica_restarts(self, index: int, with_copy: bool) -> None:
        self.replicas[index].restart(with_copy=with_copy)

    @rule(index=REPLICAS)
    def replica_dies(self, index: int) -> None:
        self.replicas[index].alive = False

    @rule(index=REPLICAS, reachable=st.booleans())
    def network(self, index: int, reachable: bool) -> None:
        self.replicas[index].reachable = reachable

    @rule(index=REPLICAS, rounds=st.integers(0, 2))
    def what_serves_crashes_for_good(self, index: int, rounds: int) -> None:
        replica = self.replicas[index]
        if replica.routed is not None:
            replica.crash(replica.routed)
        self.an_ordinary_while(rounds)

    @rule(index=REPLICAS, rounds=st.integers(0, 2), reason=BREAKERS)
    def what_is_committed_fails_its_clients(self, index: int, rounds: int, reason: Reason) -> None:
        """The breaker opens, where there is a version to go back to."""
        self.replicas[index].break_committed(reason)
        self.an_ordinary_while(rounds)

    @precondition(lambda self: self.artifacts)
    @rule()
    def what_was_missing_arrives(self) -> None:
        self.missing_files_arrive()

    @rule(index=REPLICAS, operator=OPERATORS, take=st.sampled_from([True, True, True, False]))
    def exchange(self, index: int, operator: int, take: bool) -> None:
        """A report, and the plan for an answer; who lags doesn't take it."""
        self._exchange(self.replicas[index], self.operators[operator], take=take)

    @rule(seconds=st.sampled_from([0.5, 1.0, 1.0, 3.0, 6.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for replica in self.replicas:
            replica.run(seconds)

    @rule(seconds=st.sampled_from([3600.0, 1e6]))
    def the_clock_jumps(self, seconds: float) -> None:
        """The operators' only: a suspended machine, a debugger."""
        self.now += seconds

    # --- what happens to operators and to the object -------------------------------------------------------

    @rule(index=OPERATORS)
    def observe(self, index: int) -> None:
        self._observe(self.operators[index])

    @rule(index=OPERATORS)
    def write(self, index: int) -> None:
        self._write(self.operators[index])

    @rule(index=OPERATORS)
    def publish(self, index: int) -> None:
        self.operators[index].publish()

    @rule(index=OPERATORS)
    def change_the_template(self, index: int) -> None:
        self._patch(self.operators[index])

    @rule(index=OPERATORS)
    def operator_dies(self, index: int) -> None:
        self.operators[index].die(self.now)

    @rule(rounds=st.integers(1, 6))
    def an_ordinary_while(self, rounds: int) -> None:
        """Otherwise nothing would ever get far."""
        for _ in range(rounds):
            self._round(1.0)

    @rule()
    def object_lost(self) -> None:
        self.store.replace(None)
        self._tampered()

    @precondition(lambda self: self.store.history)
    @rule(data=st.data())
    def object_restored_from_an_old_copy(self, data: st.DataObject) -> None:
        self.store.replace(data.draw(st.sampled_from(self.store.history)))
        self._tampered()

    @precondition(lambda self: len(self.store.history) > 1)
    @rule(back=st.integers(1, 4), nature=NATURES, index=OPERATORS, fresh=REPLICAS)
    def restored_and_changed_while_no_replica_is_heard(self, back: int, nature: str, index: int, fresh: int) -> None:
        """Then two histories with the same epochs meet; a replica that starts meanwhile follows the new one."""
        reachable = [replica.reachable for replica in self.replicas]
        for replica in self.replicas:
            replica.reachable = False
        self.store.replace(self.store.history[-min(back, len(self.store.history))])
        self._tampered()
        self.operators[index].die(self.now)
        self.now += 20.0
        self.newest_model_version(nature, {}, 0)
        self._observe(self.operators[index])
        self._write(self.operators[index])
        self.operators[index].publish()
        self.replicas[fresh].restart(with_copy=False)
        self.replicas[fresh].take(self.operators[index].published)
        for replica, before in zip(self.replicas, reachable, strict=True):
            replica.reachable = before

    @precondition(lambda self: self.store.content is not None)
    @rule(field=st.sampled_from(["committed", "quarantine", "holds", "rollout", "decisions"]))
    def record_edited(self, field: str) -> None:
        """Part of the record is thrown away; the plan beside it stays."""
        _, state = self.store.read()
        if state.record is not None and MODEL in state.record.models and state.plan is not None:
            record = state.record.models[MODEL]
            without = {name: getattr(record, name) for name in record.model_fields_set if name != field}
            edited = state.record.model_copy(update={"models": {MODEL: ModelRecord(**without)}})
            self.store.replace(state.model_copy(update={"record": edited}).to_dict())
            self._tampered()

    # --- what happens to the Deployment --------------------------------------------------------------------

    @precondition(lambda self: self.orchestrated)
    @rule(steps=st.integers(1, 3))
    def the_deployment_acts(self, steps: int) -> None:
        for _ in range(steps):
            self._deployment_acts()

    @precondition(lambda self: self.orchestrated)
    @rule(revision=st.sampled_from(["", "by-hand"]))
    def somebody_changes_the_template(self, revision: str) -> None:
        self.deployment.patch(self.deployment.changes, revision)

    # --- the promises that hold in every state -------------------------------------------------------------

    @invariant()
    def the_epoch_that_an_instance_follows_only_grows(self) -> None:
        for replica in getattr(self, "replicas", []):
            epochs = [plan.epoch for plan in replica.accepted]
            assert epochs == sorted(set(epochs)), f"DESIGN 3, epochs: {replica.name} went through {epochs}"

    @invariant()
    def no_plan_takes_a_served_model_from_a_replica_that_answers(self) -> None:
        for replica in getattr(self, "replicas", []):
            # Where two histories with the same epochs meet, one of them hadn't admitted what answers here.
            assert not replica.silenced or self.tampered, (
                f"DESIGN 4.3: {replica.name} had to stop by plans {replica.silenced}"
            )

    @invariant()
    def at_most_two_versions_of_a_model_are_resident(self) -> None:
        for replica in getattr(self, "replicas", []):
            resident = sorted(known for known, held in replica.held.items() if held.resident)
            assert len(resident) <= 2, f"DESIGN 5, memory: {replica.name} holds {resident}"

    @invariant()
    def what_serves_goes_on_serving(self) -> None:
        for replica in getattr(self, "replicas", []):
            model = replica.model
            if not replica.alive or model is None or model.committed is None:
                continue
            resident = [held for held in replica.held.values() if held.prepared]
            planned = model.planned(model.committed)
            could = [held for held in resident if planned is not None and held.digest == planned.digest]
            assert replica.routed is not None or not could, f"DESIGN 4.3: {replica.name} answers nothing"

    def teardown(self) -> None:
        """When the trouble ends, everything comes to rest where it should."""
        if hasattr(self, "store"):
            self._settle()
            self._check_rest()


settings.register_profile(
    "default-engine",
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "soak-engine", settings.get_profile("default-engine"), max_examples=3000, stateful_step_count=80, derandomize=False
)

Rollouts.TestCase.settings = settings.get_profile(
    "soak-engine" if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else "default-engine"
)
TestRollouts = pytest.mark.timeout(900)(Rollouts.TestCase)  # 15 s of one processor; shared ones take longer
