"""Mode Restart: new Pods bring a version, and the Pod template goes back when it isn't committed."""

from __future__ import annotations

import pytest
from engine_builders import MODEL, Cluster, decision, digest, failure, model_version

from windlass_contract.failures import Reason
from windlass_contract.record import ModelRecord, RolloutRecord, VersionRef
from windlass_contract.report import VersionState
from windlass_operator.engine.interface import SeenTemplate
from windlass_operator.engine.restarts import template_after

RESTART = {"mode": "Restart"}


def of(version: int) -> str:
    """The revision that brings a version."""
    return f"{MODEL}-{version}-{digest(version)[7:15]}"


def cluster(*replicas: str) -> Cluster:
    """Version 1 serves, on a template that nobody of ours changed."""
    made = Cluster(*(replicas or ("a", "b")), orchestrated=True)
    made.template = SeenTemplate("")
    return made.serves(model_version(1))


def restarting() -> Cluster:
    """Version 2 is on its way by new Pods; none is there yet."""
    made = cluster()
    made.model_versions.append(model_version(2, rollout=RESTART))
    made.settle()
    return made


def revision(made: Cluster) -> str:
    assert made.template is not None
    return made.template.revision


def test_new_pods_bring_it_and_it_is_committed_when_all_are_new() -> None:
    made = restarting()
    assert revision(made) == of(2)
    assert made.committed == 1
    made.restart("a", "c")
    made.settle()
    assert made.committed == 1, "an old one is left"
    assert made.events.count("Admitted") == 1
    model = made.plan.models[MODEL]
    assert [each.version for each in model.versions] == [1], "old ones hold what they held"
    assert [(each.version, each.weight) for each in model.of_revision(of(2)).versions] == [(2, 1000)]
    made.restart("b", "d")
    made.settle()
    assert (made.committed, made.model.previous, revision(made)) == (2, None, of(2))
    assert made.plan.models[MODEL].revisions == {}
    assert made.condition(2, "Ready")[0] == "True"
    assert made.outcome.template is None, "the template stays as it is"


def test_nothing_answers_before_a_first_new_pod_has_proven_it() -> None:
    made = restarting()
    made.states["c", 2] = VersionState.LOADING
    made.restart("a", "c")
    made.settle()
    entry = made.plan.models[MODEL].of_revision(of(2))
    assert (entry.candidate, entry.committed, entry.versions[0].weight) == (2, None, 0)
    made.signatures[2] = {}
    made.states.clear()
    made.settle()
    assert (made.committed, made.model.rollout, revision(made)) == (1, None, "")
    assert made.condition(2, "Stalled") == ("True", "SignatureChanged")
    assert "Admitted" not in made.events


@pytest.mark.parametrize("when", ["at the first new Pod", "at the last"])
def test_a_verdict_of_a_new_pod_takes_the_template_back(when: str) -> None:
    made = restarting()
    if when == "at the last":
        made.restart("b", "d")
        made.settle()
    made.failures["c", 2] = failure(Reason.LOAD_FAILED)
    made.restart("a", "c")
    made.settle()
    assert (made.committed, made.model.rollout) == (1, None)
    assert revision(made) == ""
    assert made.condition(2, "Stalled") == ("True", "LoadFailed")
    assert [each.version for each in made.plan.models[MODEL].of_revision(of(2)).versions] == [1]
    assert made.record.template is None, "it was seen to be there"


def test_a_newer_version_in_mid_restart_takes_its_place() -> None:
    made = restarting()
    made.restart("a", "c")
    made.settle()
    made.model_versions.append(model_version(3, rollout=RESTART))
    made.settle()
    assert revision(made) == of(3)
    assert made.model.rollout.back_to == ""
    made.restart("c", "e")
    made.restart("b", "f")
    made.settle()
    assert made.committed == 3


def test_a_newer_version_in_place_takes_the_template_back_and_is_committed() -> None:
    made = restarting()
    made.restart("a", "c")
    made.settle()
    made.model_versions.append(model_version(3))
    made.settle()
    assert (made.committed, revision(made)) == (3, "")


def test_back_from_what_needed_new_pods_means_new_pods() -> None:
    made = restarting()
    made.restart("a", "c")
    made.restart("b", "d")
    made.settle()
    made.decisions.append(decision("undo", 2))
    made.settle()
    assert made.committed == 2, "it serves until another is committed"
    assert revision(made) == of(1)
    made.restart("c", "e")
    made.restart("d", "f")
    made.settle()
    assert made.committed == 1
    assert made.condition(2, "RolledBack")[0] == "True" or made.status(2).phase == "Held"


def test_an_undo_in_mid_restart_takes_the_template_back() -> None:
    made = restarting()
    made.restart("a", "c")
    made.settle()
    made.decisions.append(decision("undo", 2))
    made.settle()
    assert (made.committed, revision(made), made.model.rollout) == (1, "", None)


def test_an_object_that_is_lost_in_mid_restart_is_rebuilt_from_a_report() -> None:
    made = restarting()
    made.restart("a", "c")
    made.settle()
    made.record = made.plan = None
    made.settle()
    assert made.model.rollout.revision == of(2)
    made.restart("b", "d")
    made.settle()
    assert made.committed == 2


@pytest.mark.parametrize(
    ("template", "said"),
    [(None, "aren't made by a Deployment"), (SeenTemplate("", "it may not"), "it may not")],
)
def test_where_pods_cant_be_restarted_it_is_not_started(template: SeenTemplate | None, said: str) -> None:
    made = cluster()
    made.template = template
    made.model_versions.append(model_version(2, rollout=RESTART))
    made.settle()
    assert made.committed == 1
    assert made.condition(2, "Stalled") == ("True", "ModeNotSupported")
    assert said in made.status(2).message
    assert "spec.rollout.mode" in made.status(2).message


def test_steps_in_mode_restart_are_not_supported() -> None:
    made = cluster()
    made.model_versions.append(model_version(2, rollout={**RESTART, "steps": [{"pause": {}}]}))
    made.settle()
    assert made.condition(2, "Stalled") == ("True", "NotSupported")
    assert "spec.rollout.steps" in made.status(2).message


def test_one_model_at_a_time_is_restarted() -> None:
    made = restarting()
    made.model_versions.append(model_version(7, model="dogs", rollout=RESTART))
    made.settle()
    assert made.record.models.get("dogs", ModelRecord()).rollout is None
    assert revision(made) == of(2)


def _record(rollout: str | None = None, back_to: str = "", committed: int = 1) -> dict[str, ModelRecord]:
    def ref(version: int) -> VersionRef:
        return VersionRef(version=version, digest=digest(version))

    running = None if rollout is None else RolloutRecord(candidate=ref(2), revision=rollout, back_to=back_to)
    return {MODEL: ModelRecord(committed=ref(committed), rollout=running)}


@pytest.mark.parametrize(
    ("seen", "ending", "before", "after", "expected"),
    [
        ("", None, _record(), _record(), (None, None)),
        ("", None, _record(), _record("r2"), ("r2", None)),
        ("r2", None, _record("r2", "r1"), _record("r2", "r1"), ("r2", None)),
        ("r2", None, _record("r2", "r1"), _record(committed=2), (None, None)),
        ("r2", None, _record("r2", "r1"), _record(), ("r1", "r1")),
        ("r2", "r1", _record(), _record(), ("r1", "r1")),
        ("r1", "r1", _record(), _record(), (None, None)),
        ("by hand", None, _record(), _record(), (None, None)),
        ("r2", "r1", _record(), _record("r3", "r1"), ("r3", None)),
    ],
)
def test_the_template_after_a_pass(seen, ending, before, after, expected) -> None:
    assert template_after(SeenTemplate(seen), ending, before, after) == expected


def test_without_a_template_there_is_nothing_to_change() -> None:
    assert template_after(None, None, _record("r2"), _record()) == (None, None)
