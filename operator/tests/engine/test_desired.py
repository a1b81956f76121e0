"""Which version is wanted, whatever the order in which things came; what isn't started, and what goes on serving."""

from __future__ import annotations

import itertools

import pytest
from engine_builders import MODEL, Cluster, decision, digest, failure, model_version

from windlass_contract.failures import Reason
from windlass_operator.engine.steps import UNCLAIMED_GRACE_SECONDS


def wait_out(cluster: Cluster) -> None:
    """Until a ModelVersion that is gone is taken for gone."""
    for _ in range(3):
        cluster.once(elapsed=UNCLAIMED_GRACE_SECONDS)
    cluster.settle()


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3, 4])))
def test_the_end_is_the_same_in_whatever_order_versions_verdicts_and_decisions_come(order):
    """Version 4 fails, version 3 is undone, so version 2 is what has to serve."""
    cluster = Cluster("a")
    cluster.failures["a", 4] = failure(Reason.LOAD_FAILED)
    for version in order:
        if version == order[2]:
            cluster.decisions.append(decision("undo", 3))
        cluster.serves(model_version(version))
    cluster.settle()
    assert cluster.committed == 2
    assert {block.version for block in cluster.model.quarantine} == {4}
    assert {block.version for block in cluster.model.holds} == {3}


def test_two_objects_with_one_version_and_different_digests_are_not_started():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions += [model_version(2, name="one"), model_version(2, variant=1, name="two")]
    cluster.settle()
    assert cluster.committed == 1
    for name in ("one", "two"):
        assert cluster.status(2, name).phase == "Conflict"
        assert "one, two" in cluster.status(2, name).message
    cluster.model_versions.pop()
    cluster.settle()
    assert cluster.committed == 2


def test_a_clash_ends_a_running_rollout_and_does_not_keep_others_back():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(3, name="one"))
    cluster.once()
    cluster.model_versions += [model_version(3, variant=1, name="two"), model_version(2)]
    cluster.settle()
    assert cluster.committed == 2


def test_a_clash_with_what_serves_changes_nothing():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    cluster.model_versions.append(model_version(2, variant=1, name="other"))
    cluster.settle()
    assert cluster.committed == 2
    assert cluster.status(2, "other").phase == "Conflict"


def test_other_files_under_the_number_that_serves_need_a_number_of_their_own():
    cluster = Cluster("a").serves(model_version(2))
    cluster.model_versions[:] = [model_version(2, variant=1)]
    cluster.settle()
    assert cluster.model.committed.digest == digest(2)
    assert cluster.status(2).phase == "Conflict"
    assert "number of their own" in cluster.status(2).message


def test_what_serves_goes_on_serving_when_its_model_version_is_gone():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.clear()
    wait_out(cluster)
    assert cluster.committed == 1
    assert cluster.plan.has_traffic
    assert cluster.outcome.remarks == (f"model {MODEL}: version 1 is serving, no ModelVersion",)


def test_a_model_version_that_is_gone_for_good_gives_way_to_a_lower_active_one():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    cluster.model_versions.pop()
    cluster.once(elapsed=1.0)
    assert cluster.committed == 2
    wait_out(cluster)
    assert cluster.committed == 1


def test_a_model_version_that_is_gone_for_a_moment_changes_nothing():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    epoch = cluster.plan.epoch
    cluster.model_versions.pop()
    cluster.once(elapsed=5.0)
    cluster.model_versions.append(model_version(2, name="renamed"))
    wait_out(cluster)
    assert cluster.plan.epoch == epoch
    assert cluster.status(2, "renamed").phase == "Serving"


def test_a_model_version_renamed_in_mid_rollout_goes_on():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(2, rollout={"steps": [{"pause": {}}]}))
    cluster.settle()
    epoch = cluster.plan.epoch
    cluster.model_versions[-1] = model_version(2, name="renamed", rollout={"steps": [{"pause": {}}]})
    cluster.settle()
    assert cluster.plan.epoch == epoch
    assert cluster.model.rollout.candidate.model_version == "renamed"


def test_a_model_version_deleted_in_mid_rollout_is_withdrawn():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(2, rollout={"steps": [{"pause": {}}]}))
    cluster.settle()
    cluster.model_versions.pop()
    cluster.settle()
    assert cluster.model.rollout is None
    assert cluster.committed == 1
    assert "Withdrawn" in cluster.events


def test_retired_on_the_last_one_stops_serving():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions[:] = [model_version(1, state="Retired")]
    cluster.settle()
    assert cluster.committed is None
    assert not cluster.plan.has_traffic
    assert cluster.status(1).phase == "Retired"


def test_retired_on_what_serves_waits_until_another_is_committed():
    cluster = Cluster("a", "b").serves(model_version(1), model_version(2))
    cluster.failures["b", 1] = failure(Reason.NOT_FOUND)
    cluster.model_versions[-1] = model_version(2, state="Retired")
    cluster.settle()
    assert cluster.committed == 2
    cluster.failures.clear()
    cluster.settle()
    assert cluster.committed == 1


def test_retired_does_not_stop_serving_while_another_is_active_though_quarantined():
    cluster = Cluster("a").serves(model_version(1))
    cluster.failures["a", 2] = failure(Reason.LOAD_FAILED)
    cluster.serves(model_version(2))
    cluster.model_versions[0] = model_version(1, state="Retired")
    cluster.settle()
    assert cluster.committed == 1


def test_retired_and_active_again_serves_again():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions[:] = [model_version(1, state="Retired")]
    cluster.settle()
    cluster.model_versions[:] = [model_version(1)]
    cluster.settle()
    assert cluster.committed == 1


def test_while_a_file_can_not_be_read_nothing_is_started_or_ended():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    cluster.model_versions[:] = [model_version(3)]
    cluster.frozen = "cats.yaml can't be read"
    epoch = cluster.plan.epoch
    wait_out(cluster)
    assert cluster.plan.epoch == epoch
    assert cluster.condition(3, "Stalled") == ("True", "Frozen")
    assert "cats.yaml" in cluster.status(3).message


def test_a_candidate_whose_file_can_not_be_read_is_not_committed():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(2))
    cluster.once()
    removed = cluster.model_versions.pop()
    cluster.frozen = "cats.yaml can't be read"
    cluster.settle()
    assert cluster.model.rollout is not None
    assert cluster.committed == 1
    cluster.model_versions.append(removed)
    cluster.frozen = ""
    cluster.settle()
    assert cluster.committed == 2


def test_while_a_file_can_not_be_read_going_back_still_works():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    cluster.frozen = "cats.yaml can't be read"
    cluster.decisions.append(decision("undo", 2))
    cluster.settle()
    assert cluster.committed == 1


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"uri": "gs://models/cats"}, "spec.artifact.uri gs://", "NotSupported"),
        ({"uri": "https://ada:secret@models.example.com/cats/2"}, "spec.artifact.uri", "NotSupported"),
        ({"uri": "https://models.example.com/cats/2?token=secret"}, "spec.artifact.uri", "NotSupported"),
        ({"uri": "s3://models/../cats/2"}, "spec.artifact.uri", "NotSupported"),
        ({"uri": "s3:///cats/2"}, "spec.artifact.uri", "NotSupported"),
        ({"uri": "volume://../elsewhere"}, "spec.artifact.uri", "NotSupported"),
        ({"uri": f"volume://{'x' * 1500}"}, "spec.artifact.uri", "NotSupported"),
        ({"uri": "volume://a\0b"}, "spec.artifact.uri", "NotSupported"),
        ({"with_digest": False}, "spec.artifact.digest", "NotSupported"),
        ({"rollout": {"mode": "Restart"}}, "spec.rollout.mode Restart", "ModeNotSupported"),
        ({"rollout": {"steps": [{"shadow": "5%", "duration": "1m"}]}}, "spec.rollout.steps[0].shadow", "NotSupported"),
        (
            {"rollout": {"steps": [{"pause": {}}, {"weight": "5%", "pause": {}}]}},
            "spec.rollout.steps[1].weight",
            "NotSupported",
        ),
        ({"rollout": {"steps": [{"pause": {"for": "1m"}}]}}, "spec.rollout.steps[0].pause.for", "NotSupported"),
        ({"rollout": {"gates": {"minRequests": 5}}}, "spec.rollout.gates.minRequests", "NotSupported"),
        ({"rollout": {"gates": {"maxErrorRate": "1%"}}}, "spec.rollout.gates.maxErrorRate", "NotSupported"),
        ({"rollout": {"gates": {"maxLatencyRatio": 2}}}, "spec.rollout.gates.maxLatencyRatio", "NotSupported"),
        ({"rollout": {"gates": {"minAgreement": "9%"}}}, "spec.rollout.gates.minAgreement", "NotSupported"),
        (
            {"verify": {"samples": {"uri": "https://x/y", "digest": digest(5)}}, "samples_digest": digest(5)},
            "spec.verify.samples.uri",
            "NotSupported",
        ),
    ],
)
def test_what_is_not_supported_is_named_and_never_carried_out_without_it(change, field, reason):
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(2, **change))
    cluster.settle()
    assert cluster.committed == 1
    assert cluster.model.rollout is None
    assert field in cluster.status(2).message
    assert cluster.status(2).phase == "NotSupported"
    assert cluster.condition(2, "Stalled") == ("True", reason)


def test_an_edit_that_is_not_supported_does_not_end_the_service_of_what_is_committed():
    cluster = Cluster("a").serves(model_version(1), model_version(2))
    cluster.model_versions[-1] = model_version(2, rollout={"mode": "Restart"})
    cluster.settle()
    assert cluster.committed == 2


@pytest.mark.parametrize(
    ("uri", "path"), [("volume://", None), (f"volume://{MODEL}/1", None), ("volume://by-hand/1", "by-hand/1")]
)
def test_a_mounted_folder_of_another_name_is_planned_by_its_path(uri, path):
    cluster = Cluster("a").serves(model_version(1, uri=uri))
    assert cluster.plan.models[MODEL].versions[0].path == path


def test_models_of_one_server_roll_out_independently():
    cluster = Cluster("a").serves(model_version(1))
    cluster.model_versions.append(model_version(7, model="other"))
    cluster.settle()
    assert cluster.committed == 1
    assert cluster.plan.models["other"].candidate == 7
