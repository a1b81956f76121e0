"""Mode Restart: new Pods bring a version, and the Pod template goes back when it isn't committed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_builders import MODEL, Cluster, decision, digest, failure, model_version
from restart_builders import RESTART, at, cluster, entry, restarting, revision

from windlass_contract.failures import Gate, Reason
from windlass_contract.record import ModelRecord, Phase, PodTemplate
from windlass_contract.report import VersionState
from windlass_operator.engine import reconcile
from windlass_operator.engine.interface import SeenTemplate


def test_new_pods_bring_it_and_it_is_committed_when_all_are_new() -> None:
    made = restarting()
    assert revision(made) == f"{MODEL}-2"
    assert made.committed == 1
    made.restart("a", "c")
    made.settle()
    assert made.committed == 1, "an old one is left"
    assert made.events.count("Admitted") == 1
    assert (made.condition(1, "Ready")[0], made.condition(1, "Degraded")[0]) == ("True", "False")
    assert (made.status(2).phase, "new Pods answer with it" in made.status(2).message) == ("Preparing", True)
    model = made.plan.models[MODEL]
    assert [each.version for each in model.versions] == [1], "old ones hold what they held"
    assert [(each.version, each.weight) for each in entry(made).versions] == [(2, 1000)]
    made.restart("b", "d")
    made.settle()
    assert (made.committed, made.model.previous, revision(made)) == (2, None, f"{MODEL}-2")
    assert made.plan.models[MODEL].revisions == {}
    assert made.condition(2, "Ready")[0] == "True"
    assert made.outcome.template is None, "the template stays as it is"


def test_nothing_answers_before_a_first_new_pod_has_proven_it() -> None:
    made = restarting()
    made.states["c", 2] = VersionState.LOADING
    made.restart("a", "c")
    made.settle()
    assert (entry(made).candidate, entry(made).committed, entry(made).versions[0].weight) == (2, None, 0)
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
    assert made.plan.models[MODEL].revisions == {}, "who is left of the new ones follows the others"
    assert made.record.template is None, "it was seen to be there"


def test_a_newer_version_in_mid_restart_takes_its_place() -> None:
    made = restarting()
    made.restart("a", "c")
    made.settle()
    made.model_versions.append(model_version(3, rollout=RESTART))
    made.settle()
    assert revision(made) == f"{MODEL}-3"
    assert made.model.rollout.back_to == PodTemplate()
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
    assert revision(made) == f"{MODEL}-1"
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
    plan = made.plan
    outcome = reconcile(replace(made.observe(1.0), record=None, plan=None))
    assert (outcome.plan, outcome.template) == (plan, None)
    rollout = outcome.record.models[MODEL].rollout
    assert (rollout.phase, rollout.revision) == (Phase.ADMITTED, made.template.revision)
    made.record, made.plan = outcome.record, outcome.plan
    made.restart("b", "d")
    made.settle()
    assert made.committed == 2


@pytest.mark.parametrize(
    ("template", "said"),
    [(None, "no Pods here that a Deployment makes"), (SeenTemplate("", "it may not"), "it may not")],
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


@pytest.mark.parametrize("other", ["aardvarks", "dogs"])
@pytest.mark.parametrize("end", ["committed", "rejected"])
def test_one_model_at_a_time_is_restarted_and_the_next_one_follows(other: str, end: str) -> None:
    made = restarting()
    made.model_versions.append(model_version(7, model=other, rollout=RESTART))
    made.settle()
    assert made.record.models.get(other, ModelRecord()).rollout is None
    assert revision(made) == f"{MODEL}-2"
    status = made.status(7, f"{other}-7")
    assert (status.phase, "started anew for model cats-dogs" in status.message) == ("Pending", True)
    if end == "rejected":
        made.failures["c", 2] = failure(Reason.LOAD_FAILED)
    made.restart("a", "c")
    made.restart("b", "d")
    made.settle()
    assert made.committed == (2 if end == "committed" else 1)
    assert revision(made) == f"{other}-7"
    back_to = made.record.models[other].rollout.back_to
    assert back_to.revision.startswith(f"{MODEL}-2-") if end == "committed" else back_to == PodTemplate()


def test_a_second_attempt_has_a_revision_of_its_own() -> None:
    """Pods that are left of the first may be all that serves: they must not follow the entry of the second."""
    made = restarting()
    made.failures["c", 2] = failure(Reason.LOAD_FAILED)
    made.restart("a", "c")
    first = made.template.revision
    made.settle()
    made.failures.clear()
    made.decisions.append(decision("clear", 2))
    made.settle()
    assert revision(made) == f"{MODEL}-2"
    assert made.template.revision != first
    left = made.plan.models[MODEL].of_revision(first)
    assert [(each.version, each.weight) for each in left.versions] == [(1, 1000)]


def test_samples_that_are_edited_once_new_pods_answer_take_none_of_them_out() -> None:
    made = cluster()
    asked = {"rollout": RESTART, "verify": {"samples": {"configMap": "accept"}}}
    made.model_versions.append(model_version(2, **asked, samples_digest=digest(70)))
    made.settle()
    made.restart("a", "c")
    made.settle()
    made.model_versions[-1] = model_version(2, **asked, samples_digest=digest(71), generation=2)
    made.settle()
    assert (entry(made).committed, entry(made).versions[0].weight) == (2, 1000)
    assert made.model.rollout.phase is Phase.ADMITTED
    made.restart("b", "d")
    made.settle()
    assert made.committed == 2


def test_what_fails_its_clients_on_a_new_pod_takes_the_template_back() -> None:
    made = restarting()
    made.restart("a", "c")
    made.settle()
    made.breakers["c", 2] = failure(Reason.ERROR_RATE_EXCEEDED, Gate.ERROR_RATE)
    made.settle()
    assert (made.committed, made.model.rollout, made.template.revision) == (1, None, "")
    assert made.condition(2, "RolledBack")[0] == "True"


def test_a_pause_before_a_first_new_pod_keeps_it_from_answering() -> None:
    made = restarting()
    made.decisions.append(decision("pause", 2))
    made.settle()
    made.restart("a", "c")
    made.settle()
    assert entry(made).versions[0].weight == 0
    made.decisions.append(decision("resume", 2))
    made.settle()
    assert entry(made).versions[0].weight == 1000


def test_a_right_that_is_taken_away_in_mid_restart_ends_it() -> None:
    made = restarting()
    made.restart("a", "c")
    made.settle()
    made.template = replace(made.template, problem="it may not")
    made.settle()
    assert (made.committed, made.model.rollout) == (1, None)
    assert made.outcome.template is None, "it doesn't try"
    assert made.record.template == PodTemplate(), "where it goes back to is not forgotten"
    first = made.template.revision
    made.template = replace(made.template, problem="")
    made.settle()
    assert (made.model.rollout.back_to, revision(made)) == (PodTemplate(), f"{MODEL}-2")
    assert made.template.revision != first


def test_the_template_is_asked_for_until_it_is_as_it_should_be() -> None:
    """An operator may die between its write and the change of the template, or somebody changes it back."""
    made = restarting()
    wanted, made.template = made.template, SeenTemplate("")
    outcome = made.once()
    assert (outcome.write, outcome.template) == (False, at(wanted.revision))
    assert outcome.revisit_after is not None


def test_what_does_not_fit_beside_the_old_one_comes_by_new_pods_once_its_mode_is_edited() -> None:
    made = cluster()
    made.model_versions.append(model_version(2))
    made.failures["a", 2] = failure(Reason.WONT_FIT)
    made.settle()
    assert made.condition(2, "Stalled") == ("True", "WontFit")
    made.model_versions[-1] = model_version(2, rollout=RESTART, generation=2)
    made.settle()
    assert revision(made) == f"{MODEL}-2"
    assert [each.version for each in made.plan.models[MODEL].versions] == [1], "who serves holds nothing else"
    made.restart("a", "c")
    made.restart("b", "d")
    made.settle()
    assert made.committed == 2


def test_a_mode_edited_back_before_a_new_pod_answers_takes_the_template_back() -> None:
    made = restarting()
    made.model_versions[-1] = model_version(2, generation=2)
    made.settle()
    assert (made.committed, made.template.revision) == (2, "")


def test_a_mode_edited_back_once_new_pods_answer_changes_nothing() -> None:
    made = restarting()
    made.restart("a", "c")
    made.settle()
    made.model_versions[-1] = model_version(2, generation=2)
    made.settle()
    assert made.model.rollout.phase is Phase.ADMITTED
    made.restart("b", "d")
    made.settle()
    assert (made.committed, revision(made)) == (2, f"{MODEL}-2")


def test_one_replica_is_enough() -> None:
    made = cluster("a")
    made.model_versions.append(model_version(2, rollout=RESTART))
    made.settle()
    made.replicas.append("c")
    made.revisions["c"] = made.template.revision
    made.settle()
    assert (made.committed, made.events.count("Admitted")) == (1, 1)
    made.replicas.remove("a")
    del made.reports["a"]
    made.settle()
    assert made.committed == 2


def test_a_first_version_comes_with_new_pods_too() -> None:
    made = Cluster("a", "b", orchestrated=True)
    made.template = SeenTemplate("")
    made.model_versions.append(model_version(1, rollout=RESTART))
    made.settle()
    assert made.committed is None
    made.restart("a", "c")
    made.restart("b", "d")
    made.settle()
    assert made.committed == 1
