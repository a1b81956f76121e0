"""`get`, `describe`, `watch` and decisions on a directory with the files that the operator writes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from windlass_cli.main import app
from windlass_cli.sources.directory import DirectorySource
from windlass_cli.views.tree import live_view
from windlass_contract.decision import Decision
from windlass_contract.document import load_yaml
from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.model_version import (
    Condition,
    ConditionStatus,
    ConditionType,
    DecisionTaken,
    GateEvidence,
    ModelVersionStatus,
    ReplicaCounts,
)
from windlass_contract.plan import Blocked, ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.record import ModelRecord, Phase, RolloutRecord, RolloutRecordSet, ServerState, VersionRef
from windlass_contract.report import ModelReport, ServingReport, VersionReport, VersionState

NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)


def digest(version: int) -> str:
    return f"sha256:{version:064x}"


def ref(version: int) -> VersionRef:
    return VersionRef(version=version, digest=digest(version), model_version=f"cats-{version}")


class Directory:
    """Writes what people and the operator would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / ".windlass"
        for name in ("status", "servers", "replicas"):
            (self.state / name).mkdir(parents=True)

    def version(self, version: int, status: ModelVersionStatus | None = None, **spec: Any) -> str:
        name = f"cats-{version}"
        document = {
            "apiVersion": "windlass.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": name},
            "spec": {
                "server": "vision",
                "model": "cats",
                "version": version,
                "artifact": {"uri": "volume://", "digest": digest(version)},
                **spec,
            },
        }
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
        if status is not None:
            self.status(version, status)
        return name

    def status(self, version: int, status: ModelVersionStatus) -> None:
        value = {"metadata": {"name": f"cats-{version}"}, "status": status.to_dict()}
        part = self.state / "status" / ".part"
        part.write_text(yaml.safe_dump(value))
        part.replace(self.state / "status" / f"cats-{version}.yaml")

    def record(self, record: ModelRecord, plan: ModelPlan | None = None) -> None:
        state = ServerState(
            server="vision",
            plan=ServingPlan.build("vision", 7, {"cats": plan or ModelPlan()}),
            record=RolloutRecordSet(server="vision", models={"cats": record}),
        )
        (self.state / "servers" / "vision.json").write_text(json.dumps(state.to_dict()))

    def event(
        self, version: int, reason: str, message: str, kind: str = "Normal", at: str = "2026-11-20T12:00:20Z"
    ) -> None:
        line = {"at": at, "server": "vision", "modelVersion": f"cats-{version}", "type": kind, "reason": reason}
        with (self.state / "events.jsonl").open("a") as file:
            file.write(json.dumps({**line, "message": message}) + "\n")

    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, "--directory", str(self.folder)])

    def shown(self, width: int = 80, height: int | None = None, only: str | None = None) -> str:
        """The live view as text."""
        console = Console(width=width, file=StringIO(), force_terminal=False)
        console.print(live_view(DirectorySource(self.folder).snapshot(), NOW, only, height))
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


SERVING = ModelVersionStatus(
    phase="Serving",
    message="serves on 2 replicas",
    digest=digest(1),
    weight=1000,
    replicas=ReplicaCounts(desired=2, prepared=2, committed=2),
    way_back="none: it is the first version",
)
WAITING = ModelVersionStatus(
    phase="Paused",
    message="prepared, waits for approval",
    digest=digest(2),
    step="step 2 of 3",
    weight=250,
    replicas=ReplicaCounts(desired=2, prepared=2, committed=0),
    way_back="version 1, which serves",
    evidence=[
        GateEvidence(gate="Load", result="Passed", statistic="0.4 s", replica="a"),
        GateEvidence(gate="Acceptance", result="Passed", statistic="score 0.98 of 0.95", replica="a"),
    ],
)
STEPS = {"steps": [{"weight": "5%", "duration": "2m"}, {"weight": "25%", "pause": {}}, {"weight": "50%"}]}


@pytest.fixture
def rolling(directory: Directory) -> Directory:
    """Version 1 serves, version 2 waits for approval at its second step."""
    directory.version(1, SERVING)
    directory.version(2, WAITING, rollout=STEPS)
    record = ModelRecord(
        committed=ref(1), rollout=RolloutRecord(candidate=ref(2), phase=Phase.STEPPING, step=1, approved_step=0)
    )
    planned = [
        PlannedVersion(version=1, digest=digest(1), weight=750),
        PlannedVersion(version=2, digest=digest(2), weight=250),
    ]
    directory.record(record, ModelPlan(committed=1, candidate=2, versions=planned))
    directory.event(1, "Committed", "version 1 serves")
    directory.event(2, "WaitingForApproval", "version 2 waits")
    return directory


# --- tables ---


def test_get_lists_newest_first_with_what_serves(rolling: Directory) -> None:
    lines = [line.split() for line in rolling.run("get").stdout.splitlines()]
    assert lines == [
        ["NAME", "SERVER", "MODEL", "VERSION", "PHASE", "WEIGHT", "REPLICAS"],
        ["cats-2", "vision", "cats", "2", "Paused", "25%", "0/2/2"],
        ["cats-1", "vision", "cats", "1", "Serving", "100%", "2/2/2"],
    ]
    assert all(len(line) <= 80 for line in rolling.run("get").stdout.splitlines())
    wide = rolling.run("get", "-o", "wide").stdout
    assert "version 1, which serves" in wide
    assert "prepared, waits for approval" in wide


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_get_gives_documents_to_programs(form: str, read: Callable[[str], Any], rolling: Directory) -> None:
    listed = read(rolling.run("get", "-o", form).stdout)
    assert [each["metadata"]["name"] for each in listed["items"]] == ["cats-2", "cats-1"]
    one = read(rolling.run("get", "cats-2", "-o", form).stdout)
    assert (one["spec"]["version"], one["status"]["phase"]) == (2, "Paused")


def test_describe_says_everything(rolling: Directory) -> None:
    conditions = [
        Condition(type=ConditionType.STALLED, status=ConditionStatus.TRUE, reason="WontFit", message="too large")
    ]
    decisions = [DecisionTaken(id="pause-1", action="pause", by="ada", at="2026-11-20T11:00:00Z", outcome="taken")]
    rolling.status(2, WAITING.model_copy(update={"conditions": conditions, "decisions": decisions}))
    said = rolling.run("describe", "cats-2").stdout
    expected = ["Paused", digest(2), "2. weight 25%, then wait for approval", "WontFit", "score 0.98 of 0.95"]
    for part in [*expected, "pause by ada: taken", "WaitingForApproval", "0 committed", "version 1, which serves"]:
        assert part in said


def test_a_file_that_cant_be_read_is_shown_with_its_problem(rolling: Directory) -> None:
    (rolling.folder / "cats-3.yaml").write_text("kind: ModelVersion\nmetadata: {name: cats-3}\nspec: {}\n")
    (rolling.folder / "torn.yaml").write_text("{")
    (rolling.folder / "other.yaml").write_text("kind: ConfigMap\n")
    result = rolling.run("get")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["cats-2", "cats-1", "cats-3", "torn"]
    assert "spec.server: it is missing" in result.output
    assert "is not YAML" in rolling.shown()


@pytest.mark.parametrize("text", ["", "just text\n", "kind: ModelVersion\nmetadata: {name: Not_A_Name}\n"])
def test_what_only_the_operator_takes_for_a_modelversion_is_shown_once_with_its_words(
    rolling: Directory, text: str
) -> None:
    (rolling.folder / "typo.yaml").write_text(text)
    status = {"phase": "Stalled", "message": "typo.yaml: it holds no YAML mapping"}
    (rolling.state / "status" / "typo.yaml").write_text(yaml.safe_dump({"status": status}))
    result = rolling.run("get")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]].count("typo") == 1
    assert "Not_A_Name  " not in result.stdout
    assert "typo.yaml: " in result.output
    assert "its file is gone" not in result.output


def test_names_that_arent_there_end_with_exit_code_1_and_say_which_are(rolling: Directory) -> None:
    for command in ("get", "describe", "watch", "undo"):
        result = rolling.run(command, "dogs-1")
        assert result.exit_code == 1
        assert "there are: cats-2, cats-1" in result.output


def test_a_folder_that_isnt_there_names_the_option(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["get", "-d", str(tmp_path / "missing")])
    assert result.exit_code == 1
    assert "--directory" in result.output


def test_the_folder_may_come_from_the_environment(rolling: Directory) -> None:
    result = CliRunner().invoke(app, ["get", "cats-1"], env={"WINDLASS_DIRECTORY": str(rolling.folder)})
    assert "Serving" in result.stdout


def test_without_an_operator_the_remedy_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["get", "-d", str(tmp_path)])
    assert result.exit_code == 0
    assert "windlass-operator directory" in " ".join(result.output.split())


# --- the live view ---


def test_the_live_view_shows_all_that_moves(rolling: Directory) -> None:
    said = rolling.shown()
    expected = ["server vision", "epoch 7", "model cats", "v2  Paused", "25%", "2 desired, 2 prepared, 0 committed"]
    expected += ["✔ 1. weight 5% for 2m", "▶ 2. weight 25%", "○ 3. weight 50%", "windlass approve cats-2"]
    expected += ["way back: version 1, which serves", "score 0.98 of 0.95", "10s WaitingForApproval", "100%"]
    for part in expected:
        assert part in said.replace("\N{NO-BREAK SPACE}", " "), said
    assert all(len(line) <= 80 for line in said.splitlines())


def test_the_live_view_shows_each_replica(rolling: Directory) -> None:
    loading = VersionReport(version=2, state=VersionState.LOADING, progress=0.4)
    failure = Failure(gate=Gate.DIGEST, reason=Reason.FILE_MISSING, message="x")
    waiting = VersionReport(version=2, state=VersionState.WAITING, failure=failure)
    reports = [
        ServingReport(
            server="vision", replica=name, instance="0" * 8, sequence=1, ready=name == "a", models={"cats": model}
        )
        for name, model in (
            ("a", ModelReport(versions=[loading])),
            ("b", ModelReport(versions=[waiting], lagging=True)),
        )
    ]
    path = rolling.state / "replicas" / "vision.json"
    path.write_text(json.dumps([report.to_dict() for report in reports]))
    said = rolling.shown()
    for part in ["1 of 2 replicas ready", "a: Loading 40%", "b: Waiting: FileMissing", "lagging"]:
        assert part in said


def test_a_failed_gate_stands_out_with_its_evidence(rolling: Directory) -> None:
    evidence = [GateEvidence(gate="Acceptance", result="Failed", statistic="score 0.12 of 0.95", replica="b")]
    rolling.status(2, WAITING.model_copy(update={"phase": "Quarantined", "evidence": evidence, "weight": 0}))
    said = rolling.shown()
    assert "✖ v2  Quarantined" in said
    assert "✖ Acceptance: score 0.12 of 0.95 on b" in said


def test_what_serves_without_a_modelversion_is_shown(rolling: Directory) -> None:
    (rolling.folder / "cats-1.yaml").unlink()
    (rolling.state / "status" / "cats-1.yaml").unlink()
    assert "v1  serving 75%, no ModelVersion" in rolling.shown()


def test_the_newest_events_stay_in_a_small_window(rolling: Directory) -> None:
    for number in range(20):
        rolling.event(2, "Happened", f"number {number}")
    said = rolling.shown(height=23)
    assert len(said.splitlines()) <= 24
    assert "number 19" in said
    for version in range(3, 9):
        rolling.version(version, SERVING)
    crowded = rolling.shown(height=23)
    assert "windlass watch NAME" in crowded
    assert "number 19" in crowded


def test_watch_once_prints_and_ends(rolling: Directory) -> None:
    result = rolling.run("watch", "--once")
    assert result.exit_code == 0
    assert "v2  Paused" in result.stdout


def test_watch_prints_a_line_per_change_where_there_is_no_terminal(rolling: Directory) -> None:
    def go_on() -> None:
        time.sleep(0.6)
        rolling.status(2, WAITING.model_copy(update={"phase": "Serving", "message": "serves", "weight": 1000}))

    changing = threading.Thread(target=go_on)
    changing.start()
    result = rolling.run("watch", "cats-2", "--until", "Serving", "--timeout", "60")
    changing.join()
    assert result.exit_code == 0
    assert [line.split()[2] for line in result.stdout.splitlines()] == ["Paused", "Serving"]


def test_watch_until_fails_when_it_ends_up_elsewhere_or_too_late(rolling: Directory) -> None:
    late = rolling.run("watch", "cats-2", "--until", "Serving", "--timeout", "0.3")
    assert late.exit_code == 1
    assert "is still Paused" in late.output
    rolling.status(2, WAITING.model_copy(update={"phase": "Quarantined", "message": "wrong answers"}))
    wrong = rolling.run("watch", "cats-2", "--until", "Serving")
    assert wrong.exit_code == 1
    assert "ended up Quarantined, not Serving: wrong answers" in " ".join(wrong.output.split())
    assert rolling.run("watch", "--until", "Serving").exit_code == 2


def test_ctrl_c_ends_watching_without_a_traceback(rolling: Directory) -> None:
    command = [str(Path(sys.executable).parent / "windlass"), "watch", "-d", str(rolling.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "cats-2" in process.stdout.readline()
        process.send_signal(2)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 130


# --- decisions ---


def written(directory: Directory) -> list[Decision]:
    return [
        Decision.parse(load_yaml(path.read_bytes(), path.name), path.name)
        for path in sorted(directory.folder.glob("*.decision.yaml"))
        if path.name == f"{path.name.split('.')[0]}.{path.name.split('.')[1]}.decision.yaml"
    ]


def test_an_approval_names_digest_and_step(rolling: Directory) -> None:
    result = rolling.run("approve", "cats-2", "--reason", "looks good")
    assert result.exit_code == 0
    assert "step 3 of 3" in result.stdout
    (decision,) = written(rolling)
    spec = decision.spec
    assert (decision.metadata.name, spec.action, spec.version) == ("cats-2", "approve", 2)
    assert (spec.digest, spec.step, spec.reason) == (digest(2), 1, "looks good")
    assert (rolling.folder / f"cats-2.{spec.id}.decision.yaml").exists()


def test_a_dry_run_decides_nothing(rolling: Directory) -> None:
    result = rolling.run("undo", "cats-2", "--dry-run")
    assert "would undo cats-2: the rollout of version 2 ends, version 1 goes on serving" in " ".join(
        result.stdout.split()
    )
    assert written(rolling) == []


@pytest.mark.parametrize(
    ("action", "name", "says"),
    [
        ("approve", "cats-1", "isn't being rolled out (it is Serving): there is nothing to approve"),
        ("resume", "cats-2", "isn't paused by anybody"),
        ("undo", "cats-1", "no way back from version 1 (none: it is the first version)"),
        ("clear", "cats-2", "neither quarantined nor held"),
    ],
)
def test_what_makes_no_sense_now_is_refused(action: str, name: str, says: str, rolling: Directory) -> None:
    result = rolling.run(action, name)
    assert result.exit_code == 1
    assert says in " ".join(result.output.split())
    assert written(rolling) == []


def test_approving_a_rollout_that_doesnt_wait_is_refused(rolling: Directory) -> None:
    rolling.record(
        ModelRecord(committed=ref(1), rollout=RolloutRecord(candidate=ref(2), phase=Phase.PREPARING, step=1))
    )
    assert "doesn't wait for approval" in rolling.run("approve", "cats-2").output


def test_pausing_twice_is_refused_and_resuming_then_makes_sense(rolling: Directory) -> None:
    assert rolling.run("pause", "cats-2").exit_code == 0
    rolling.record(ModelRecord(committed=ref(1), rollout=RolloutRecord(candidate=ref(2), step=1, paused=True)))
    assert "paused already" in rolling.run("pause", "cats-2").output
    assert rolling.run("resume", "cats-2").exit_code == 0
    assert sorted(each.spec.action for each in written(rolling)) == ["pause", "resume"]


def test_undo_of_what_serves_names_the_version_that_comes_back(rolling: Directory) -> None:
    rolling.record(ModelRecord(committed=ref(2), previous=ref(1)))
    assert "version 1 serves again at once" in rolling.run("undo", "cats-2").stdout


def test_undo_without_a_resident_version_goes_back_to_one_that_is_loaded_anew(rolling: Directory) -> None:
    rolling.record(ModelRecord(committed=ref(2)))
    assert "version 1 is loaded and proven anew" in " ".join(rolling.run("undo", "cats-2").stdout.split())
    assert [(each.spec.action, each.spec.digest) for each in written(rolling)] == [("undo", digest(2))]


def test_undo_goes_back_to_no_version_that_is_blocked_or_retired(rolling: Directory) -> None:
    blocked = Blocked(version=1, digest=digest(1), reason="Undone", message="ada took version 1 back")
    rolling.record(ModelRecord(committed=ref(2), holds=[blocked]))
    assert rolling.run("undo", "cats-2").exit_code == 1
    rolling.record(ModelRecord(committed=ref(2)))
    rolling.version(1, state="Retired")
    assert rolling.run("undo", "cats-2").exit_code == 1
    assert written(rolling) == []


def test_clear_names_the_digest_that_is_blocked(rolling: Directory) -> None:
    blocked = Blocked(version=2, digest=digest(2), reason="AcceptanceFailed", message="score 0.12")
    rolling.record(ModelRecord(committed=ref(1), quarantine=[blocked]))
    result = rolling.run("clear", "cats-2")
    assert "the quarantine of version 2 is lifted (score 0.12)" in result.stdout
    assert written(rolling)[0].spec.digest == digest(2)


def test_waiting_says_what_came_of_it(rolling: Directory) -> None:
    def take() -> None:
        while not (found := written(rolling)):
            time.sleep(0.05)
        taken = DecisionTaken(id=found[0].spec.id, action="approve", outcome="let it go on")
        rolling.status(2, WAITING.model_copy(update={"phase": "Serving", "message": "serves", "decisions": [taken]}))

    operator = threading.Thread(target=take)
    operator.start()
    result = rolling.run("approve", "cats-2", "--wait", "--timeout", "60")
    operator.join()
    assert result.exit_code == 0
    assert "let it go on; cats-2 is Serving: serves" in result.stdout


def test_waiting_in_vain_fails_and_says_where_the_decision_stays(rolling: Directory) -> None:
    result = rolling.run("approve", "cats-2", "--wait", "--timeout", "0.2")
    assert result.exit_code == 1
    assert "no operator has taken it within 0.2 s" in " ".join(result.output.split())
    assert len(written(rolling)) == 1


# --- help ---


def test_every_command_has_help() -> None:
    listed = CliRunner().invoke(app, ["--help"]).output
    for command in (
        "pack",
        "adopt",
        "verify",
        "get",
        "describe",
        "watch",
        "approve",
        "pause",
        "resume",
        "undo",
        "clear",
    ):
        assert command in listed
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert len(result.output) > 200
        assert "list[" not in result.output


def test_help_of_adopt_says_how_a_tree_is_laid_out() -> None:
    assert "MODEL/VERSION/" in CliRunner().invoke(app, ["adopt", "--help"]).output
