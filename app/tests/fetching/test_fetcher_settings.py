"""What a fetcher is told, and what it refuses to be told."""

from __future__ import annotations

import pytest

from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_server.command_line import parse_settings
from windlass_server.fetching.fetcher import named_by, wanted_of
from windlass_server.fetching.main import sources_of
from windlass_server.fetching.settings import FetcherSettings

GIVEN = ["--server", "one", "--plan-file", "plan"]


def parsed(*arguments: str) -> FetcherSettings:
    return parse_settings(FetcherSettings, arguments, "windlass-fetcher", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--server (WINDLASS_SERVER)"),
        (["--server", "one"], "--operator (WINDLASS_OPERATOR) is missing"),
        (["--server", "one", "--plan-file", "plan"], "nothing may be fetched: name hosts with --allow-host"),
        (["--server", "one", "--plan-file", "plan", "--allow-host", "https://x"], "is no host"),
        (["--server", "one", "--plan-file", "plan", "--s3-endpoint", "http://s3"], "--s3-endpoint is http://"),
        (["--server", "one", "--plan-file", "plan", "--s3-endpoint", "https://a:b@s3"], "--s3-endpoint"),
    ],
)
def test_wrong_settings_are_named(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_what_may_be_fetched_is_what_was_allowed(monkeypatch):
    assert sorted(sources_of(parsed(*GIVEN, "--allow-host", "a.example.com"))) == ["https"]
    assert sorted(sources_of(parsed(*GIVEN, "--allow-host", "*", "--allow-http"))) == ["http", "https"]
    assert sorted(sources_of(parsed(*GIVEN, "--s3-endpoint", "https://s3.example.com"))) == ["s3"]
    monkeypatch.setenv("WINDLASS_ALLOW_HOST", "a.example.com, *.example.org:8443")
    assert parsed(*GIVEN).allow_host == ("a.example.com", "*.example.org:8443")


def test_only_the_version_of_its_own_revision_is_fetched():
    given = [*GIVEN, "--allow-host", "*"]
    old, new = (PlannedVersion(version=v, digest=f"sha256:{v:064x}", uri=f"s3://models/{v}") for v in (1, 2))
    model = ModelPlan(committed=1, versions=[old.model_copy(update={"weight": 1000})], revisions={"m-2-7": new})
    plan = ServingPlan.build("one", 7, {"m": model})
    assert [each.version for each in wanted_of(plan.of_revision(parsed(*given).revision))] == [1]
    own = parsed(*given, "--revision", "m-2-7").revision
    assert [each.version for each in wanted_of(plan.of_revision(own))] == [2]
    assert named_by(plan) == {old.digest, new.digest}, "nobody removes what others need"
