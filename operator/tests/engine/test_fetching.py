"""Versions whose files a fetcher has to bring."""

from __future__ import annotations

import pytest
from engine_builders import MODEL, Cluster, failure, model_version

from windlass_contract.failures import Gate, Reason
from windlass_contract.report import VersionState

URI = "https://models.example.com/cats/2"


def test_the_plan_says_where_the_files_are_to_be_had():
    cluster = Cluster("a")
    cluster.fetches = ["https"]
    cluster.serves(model_version(1), model_version(2, uri=URI))
    assert cluster.committed == 2
    planned = {each.version: each for each in cluster.plan.models[MODEL].versions}
    assert (planned[2].uri, planned[2].path) == (URI, None)
    assert "uri" not in planned[1].to_dict()


@pytest.mark.parametrize("fetches", [[], ["s3"]])
def test_without_a_fetcher_for_its_scheme_it_is_not_started_and_says_what_to_do(fetches):
    cluster = Cluster("a", "b").serves(model_version(1), model_version(2))
    cluster.fetches = fetches
    cluster.serves(model_version(3, uri=URI))
    assert cluster.model.rollout is None
    assert cluster.model.previous.version == 1, "the way back isn't given up for it"
    status = cluster.status(3)
    assert (status.phase, cluster.condition(3, "Stalled")) == ("Stalled", ("True", "NoFetcher"))
    assert cluster.condition(3, "Fetched") == ("False", "NoFetcher")
    assert "spec.artifact.uri is https://" in status.message
    assert "on a, b there is no fetcher" in status.message
    assert "docs/artifacts.md" in status.message


def test_it_starts_when_the_fetcher_is_there():
    cluster = Cluster("a").serves(model_version(1), model_version(2, uri=URI))
    assert cluster.committed == 1
    cluster.fetches = ["https"]
    cluster.settle()
    assert cluster.committed == 2


def test_a_fetcher_that_goes_ends_no_rollout_and_what_serves_goes_on():
    cluster = Cluster("a")
    cluster.fetches = ["https"]
    cluster.states["a", 2] = VersionState.FETCHING
    cluster.serves(model_version(1), model_version(2, uri=URI))
    cluster.fetches = []
    cluster.settle()
    assert cluster.model.rollout.candidate.version == 2
    assert cluster.committed == 1


def test_files_on_their_way_are_no_trouble():
    cluster = Cluster("a")
    cluster.fetches = ["https"]
    cluster.states["a", 2], cluster.progress["a", 2] = VersionState.FETCHING, 0.37
    cluster.serves(model_version(1), model_version(2, uri=URI))
    fetched = next(each for each in cluster.status(2).conditions if each.type == "Fetched")
    assert (fetched.status, fetched.reason) == ("False", "Fetching")
    assert "a has 37%" in fetched.message
    assert cluster.condition(2, "Stalled")[0] == "False"


@pytest.mark.parametrize("reason", [Reason.FETCH_DENIED, Reason.FILE_DIGEST_MISMATCH, Reason.NOT_FOUND])
def test_what_could_not_be_fetched_is_stalled_and_never_quarantined(reason):
    cluster = Cluster("a")
    cluster.fetches = ["https"]
    cluster.failures["a", 2] = failure(reason, Gate.FETCH)
    cluster.serves(model_version(1), model_version(2, uri=URI))
    assert cluster.condition(2, "Fetched") == ("False", reason)
    assert cluster.condition(2, "Stalled") == ("True", reason)
    assert not cluster.model.quarantine
    cluster.failures.clear()
    cluster.settle()
    assert cluster.committed == 2


def test_a_new_place_of_the_same_files_is_taken_without_a_rollout():
    cluster = Cluster("a")
    cluster.fetches = ["https"]
    cluster.serves(model_version(2, uri=URI))
    moved = "https://mirror.example.com/cats/2"
    cluster.model_versions[:] = [model_version(2, uri=moved)]
    cluster.settle()
    assert cluster.model.rollout is None
    assert cluster.plan.models[MODEL].versions[0].uri == moved
    cluster.record = None
    cluster.settle()
    assert cluster.model.committed.uri == moved, "the record is rebuilt from the plan"
