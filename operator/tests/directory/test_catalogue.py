"""What the files of a directory come to: tables over the pure function."""

from __future__ import annotations

from typing import Any

import pytest

from windlass_contract.model_version import ModelVersion
from windlass_operator.directory_driver.catalogue import Bad, Foreign, Good, Remembered, build
from windlass_operator.directory_driver.scan import parse_decision, parse_file

NOTHING: frozenset[str] = frozenset()


def version(name: str, number: int = 1, *, server: str = "cats", **spec: Any) -> ModelVersion:
    return ModelVersion.parse(
        {
            "apiVersion": "windlass.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": name},
            "spec": {
                "server": server,
                "model": "m",
                "version": number,
                "artifact": {"uri": "volume://"},
                **spec,
            },
        },
        name,
    )


def good(file: str, model_version: ModelVersion) -> Good:
    return Good(file, f"digest of {file}", model_version)


def bad(file: str, **known: str) -> Bad:
    return Bad(file, f"digest of {file}", "it is broken", **known)


def test_a_new_file_counts_with_generation_1() -> None:
    result = build([good("a.yaml", version("a"))], NOTHING, {})
    assert result.memory == {"a.yaml": Remembered(version("a"), 1)}
    assert result.servers() == {"cats"}
    assert result.frozen("cats") == ""


@pytest.mark.parametrize(
    ("edited", "generation"),
    [
        (version("a"), 4),
        (version("a", state="Retired"), 5),
        (version("a", rollout={"keepPrevious": "1m"}), 5),
    ],
)
def test_the_generation_grows_when_the_content_changes(edited: ModelVersion, generation: int) -> None:
    result = build([good("a.yaml", edited)], NOTHING, {"a.yaml": Remembered(version("a"), 4)})
    assert result.memory["a.yaml"] == Remembered(edited, generation)


@pytest.mark.parametrize(
    ("known", "remembered", "frozen"),
    [
        ({}, "horses", {"horses"}),
        ({"server": "dogs"}, None, {"dogs"}),
        ({"server": "dogs"}, "horses", {"dogs", "horses"}),
        ({}, None, {"cats", "dogs", "horses"}),
    ],
    ids=["the last server that it named", "the server it names", "both", "all of the directory"],
)
def test_a_file_that_is_not_understood_freezes(known: dict[str, str], remembered: str | None, frozen: set[str]) -> None:
    memory = {"b.yaml": Remembered(version("b", server=remembered), 2)} if remembered else {}
    result = build([bad("b.yaml", **known)], NOTHING, memory)
    assert {server for server in ("cats", "dogs", "horses") if result.frozen(server)} == frozen
    assert result.memory == memory, "what it last said holds on"
    assert all("b.yaml: it is broken" in result.frozen(server) for server in frozen)


def test_a_file_that_was_mended_freezes_no_more() -> None:
    memory = {"a.yaml": Remembered(version("a"), 1)}
    broken = build([bad("a.yaml")], NOTHING, memory)
    assert broken.frozen("cats")
    assert build([good("a.yaml", version("a"))], NOTHING, broken.memory).frozen("cats") == ""


def test_a_directory_that_can_not_be_read_freezes_everything_and_deletes_nothing() -> None:
    memory = {"a.yaml": Remembered(version("a"), 1)}
    result = build([], NOTHING, memory, "it isn't mounted")
    assert (result.frozen("cats"), result.memory) == ("it isn't mounted", memory)


def test_a_deleted_file_is_forgotten() -> None:
    assert build([], NOTHING, {"a.yaml": Remembered(version("a"), 1)}).memory == {}


def test_a_file_that_vanished_just_now_still_counts() -> None:
    memory = {"a.yaml": Remembered(version("a"), 1)}
    assert build([], frozenset({"a.yaml"}), memory).memory == memory


def test_a_renamed_file_keeps_its_generation() -> None:
    memory = {"a.yaml": Remembered(version("a"), 3)}
    for unsettled in (frozenset({"a.yaml"}), NOTHING):
        result = build([good("z.yaml", version("a"))], unsettled, memory)
        assert result.memory == {"z.yaml": Remembered(version("a"), 3)}
        assert not result.problems


def test_a_renamed_model_version_takes_the_place_of_the_old_one_at_once() -> None:
    memory = {"a.yaml": Remembered(version("old"), 3)}
    result = build([good("a.yaml", version("new"))], NOTHING, memory)
    assert result.memory == {"a.yaml": Remembered(version("new"), 1)}
    assert not result.refused


@pytest.mark.parametrize(
    ("after", "field"),
    [
        (version("a", 2), "spec.version (1 → 2)"),
        (version("a", server="dogs"), "spec.server (cats → dogs)"),
        (version("a", model="other"), "spec.model (m → other)"),
        (version("a", artifact={"uri": "s3://elsewhere"}), "spec.artifact.uri"),
        (version("a", artifact={"uri": "volume://", "digest": "sha256:" + "b" * 64}), "spec.artifact.digest"),
    ],
)
def test_an_edit_of_what_identifies_a_version_is_refused(after: ModelVersion, field: str) -> None:
    memory = {"a.yaml": Remembered(version("a"), 3)}
    result = build([good("a.yaml", after)], NOTHING, memory)
    assert result.memory == memory, "it stays what it was"
    assert [problem.name for problem in result.refused] == ["a"]
    assert field in result.refused[0].message
    assert "new spec.version" in result.refused[0].message
    assert not any(result.frozen(server) for server in ("cats", "dogs"))


def test_of_two_files_with_the_same_name_the_one_that_had_it_counts() -> None:
    memory = {"b.yaml": Remembered(version("a"), 2)}
    result = build([good("a.yaml", version("a", 2)), good("b.yaml", version("a"))], NOTHING, memory)
    assert result.memory == memory
    assert [problem.file for problem in result.problems] == ["a.yaml"]
    assert "metadata.name is 'a', as in b.yaml" in result.frozen("cats")


def test_of_two_new_files_with_the_same_name_neither_counts() -> None:
    result = build([good("a.yaml", version("a")), good("b.yaml", version("a", 2, server="dogs"))], NOTHING, {})
    assert result.memory == {}
    assert [problem.file for problem in result.problems] == ["a.yaml", "b.yaml"]
    assert result.frozen("cats")
    assert result.frozen("dogs")


def test_the_name_of_a_file_that_is_broken_for_now_can_not_be_taken_by_another() -> None:
    memory = {"a.yaml": Remembered(version("a"), 2)}
    result = build([bad("a.yaml"), good("b.yaml", version("a", 5))], NOTHING, memory)
    assert result.memory == memory
    assert sorted(problem.file for problem in result.problems) == ["a.yaml", "b.yaml"]


def test_a_file_of_another_kind_is_left_alone_unless_it_was_a_model_version() -> None:
    foreign = Foreign("compose.yaml", "d", "its kind is None")
    assert build([foreign], NOTHING, {}).frozen("cats") == ""
    assert build([foreign], NOTHING, {}).foreign == (foreign,)
    memory = {"compose.yaml": Remembered(version("a"), 1)}
    result = build([foreign], NOTHING, memory)
    assert "it held a ModelVersion" in result.frozen("cats")
    assert result.memory == memory


GOOD_FILE = """
apiVersion: windlass.dev/v1alpha1
kind: ModelVersion
metadata: {name: cats-4}
spec: {server: cats, model: m, version: 4, artifact: {uri: "volume://"}}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD_FILE, ("Good", "cats-4", "cats")),
        ("", ("Bad", "", "")),
        ("just words", ("Bad", "", "")),
        ("a: [", ("Bad", "", "")),
        ("a: &x 1\nb: *x", ("Bad", "", "")),
        ("services: {a: {image: b}}", ("Foreign", "", "")),
        ("apiVersion: v1\nkind: ConfigMap", ("Foreign", "", "")),
        (GOOD_FILE.replace("kind: ModelVersion", "kind: ModelVersoin"), ("Bad", "cats-4", "cats")),
        (GOOD_FILE.replace("windlass.dev/v1alpha1", "windlas.dev/v1"), ("Bad", "cats-4", "cats")),
        (GOOD_FILE.replace("apiVersion", "api").replace("kind:", "kin:"), ("Bad", "cats-4", "cats")),
        (GOOD_FILE.replace("version: 4", "version: four"), ("Bad", "cats-4", "cats")),
        (GOOD_FILE.replace("model: m", "modle: m"), ("Bad", "cats-4", "cats")),
        (GOOD_FILE.replace("server: cats", "server: [cats]"), ("Bad", "cats-4", "")),
        (GOOD_FILE.replace("metadata: {name: cats-4}", "metadata: cats-4"), ("Bad", "", "cats")),
        (GOOD_FILE + "---\n" + GOOD_FILE, ("Bad", "", "")),
    ],
)
def test_what_a_file_says(text: str, expected: tuple[str, str, str]) -> None:
    entry = parse_file("x.yaml", text.encode())
    if isinstance(entry, Good):
        found = (entry.model_version.metadata.name, entry.model_version.spec.server)
    else:
        found = (entry.name, entry.server) if isinstance(entry, Bad) else ("", "")
    assert (type(entry).__name__, *found) == expected


def test_a_problem_names_the_field_and_the_remedy() -> None:
    entry = parse_file("x.yaml", GOOD_FILE.replace("version: 4", "version: 4, sate: Retired").encode())
    assert isinstance(entry, Bad)
    assert entry.message == 'spec.sate is "Retired": there is no such field here; check its spelling and indentation'


DECISION = """
apiVersion: windlass.dev/v1alpha1
kind: Decision
metadata: {name: cats-4}
spec: {id: x1, action: undo, server: cats, model: m, version: 4, digest: "sha256:%s"}
""" % ("c" * 64)


def test_a_decision_is_taken_from_a_file_with_its_name_only() -> None:
    decision = parse_decision("cats-4.x1.decision.yaml", DECISION.encode())
    assert not isinstance(decision, str)
    assert decision.spec.id == "x1"
    refused = parse_decision("cats-5.x1.decision.yaml", DECISION.encode())
    assert isinstance(refused, str)
    assert "has to be named cats-4.x1.decision.yaml" in refused
    assert "spec.action" in str(parse_decision("a.x1.decision.yaml", DECISION.replace("undo", "undu").encode()))
