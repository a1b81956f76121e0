"""What becomes of versions when their files come, go, clash or can't be read."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from windlass_contract.artifact import read_manifest
from windlass_testing.load import Load
from windlass_testing.models import affine, unloadable
from windlass_testing.one_machine import wait_until


def test_a_first_version_that_fails_leaves_the_model_unserved_and_says_so(empty_rig: Any) -> None:
    rig = empty_rig
    name = rig.roll(1, digest=read_manifest(unloadable(rig.machine.models, rig.model, 1)).digest)
    status = rig.machine.wait_for_phase(name, "Quarantined")
    assert "is not served" in status["message"]
    assert rig.replica.predict(rig.model, [[1.0]]).status_code in {404, 503}
    assert rig.replica.get("/readyz").status_code == 503


def test_the_only_version_deleted_goes_on_serving(rig: Any) -> None:
    with Load(rig.replica.url, rig.requests(), rate=50) as load:
        (rig.machine.directory / f"{rig.name(1)}.yaml").unlink()
        wait_until("the status says that no ModelVersion is there", lambda: not rig.machine.status(rig.name(1)))
    assert load.lost == []
    assert rig.answer() == 2.0


def test_the_only_version_retired_stops_serving(rig: Any) -> None:
    document = rig.machine.document(rig.model, 1, rig.machine.status(rig.name(1))["digest"], state="Retired")
    rig.machine.apply(document)
    rig.machine.wait_for_phase(rig.name(1), "Retired")
    wait_until("nothing answers", lambda: rig.replica.predict(rig.model, [[1.0]]).status_code in {404, 503})
    assert rig.replica.get("/livez").status_code == 200


def test_a_model_version_renamed_in_mid_rollout_still_goes_live(rig: Any) -> None:
    digest = rig.pack(2, load_seconds=3)
    document = rig.machine.document(rig.model, 2, digest)
    rig.machine.apply(document)
    rig.machine.wait_for_phase(rig.name(2), "Preparing")
    with Load(rig.replica.url, rig.requests(), rate=50) as load:
        document["metadata"]["name"] = rig.model + "-two"
        rig.machine.apply(document, f"{rig.model}-two.yaml")
        (rig.machine.directory / f"{rig.name(2)}.yaml").unlink()
        rig.machine.wait_for_phase(rig.model + "-two", "Serving")
    assert load.lost == []
    assert rig.answer() == 3.0


def test_a_typo_freezes_what_is_there_names_line_and_field_and_heals(rig: Any) -> None:
    path: Path = rig.machine.directory / f"{rig.name(1)}.yaml"
    good = path.read_text()
    path.write_text(good.replace("version: 1", "verison: 1"))

    def said() -> bool:
        text = str(rig.machine.status(rig.name(1))) + rig.machine.operator.tail(80)
        return "verison" in text and f"{rig.name(1)}.yaml" in text

    wait_until("the typo is named with its file", said, last_seen=rig.machine.operator.tail)
    rig.roll(2)
    assert rig.answer() == 2.0
    path.write_text(good)
    rig.machine.wait_for_phase(rig.name(2), "Serving")


def test_two_files_that_name_one_version_with_different_digests_start_nothing(rig: Any) -> None:
    digest = rig.pack(2)
    document = rig.machine.document(rig.model, 2, digest)
    clashing = rig.machine.document(rig.model, 2, "sha256:" + "1" * 64)
    clashing["metadata"]["name"] = rig.model + "-2-too"
    # Both at once: the directory is looked at only when both are there.
    rig.machine.operator.stop(signal.SIGTERM)
    rig.machine.apply(document)
    rig.machine.apply(clashing)
    rig.machine.operator.start()
    rig.machine.wait_for_phase(rig.name(2), "Conflict")
    rig.machine.wait_for_phase(rig.model + "-2-too", "Conflict")
    assert rig.answer() == 2.0
    (rig.machine.directory / f"{rig.model}-2-too.yaml").unlink()
    rig.machine.wait_for_phase(rig.name(2), "Serving")
    assert rig.answer() == 3.0


def test_a_newer_version_supersedes_the_one_that_is_being_prepared(rig: Any) -> None:
    rig.roll(2, digest=read_manifest(affine(rig.machine.models, rig.model, 2, 3, 0, load_seconds=5)).digest)
    rig.machine.wait_for_phase(rig.name(2), "Preparing")
    rig.serve(3)
    assert rig.answer() == 4.0
    rig.machine.wait_for_phase(rig.name(2), "Superseded")


def test_a_pause_waits_for_approval_and_goes_on_with_it(rig: Any) -> None:
    import subprocess

    from windlass_testing.one_machine import BIN

    name = rig.roll(2, rollout={"steps": [{"pause": {}}]})
    rig.machine.wait_for_phase(name, "Paused")
    assert rig.answer() == 2.0
    command = [str(BIN / "windlass"), "approve", name, "--directory", str(rig.machine.directory)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    rig.machine.wait_for_phase(name, "Serving")
    assert rig.answer() == 3.0


def test_fields_that_are_not_there_yet_are_refused_by_name(rig: Any) -> None:
    for version, spec, field in (
        (2, {"rollout": {"steps": [{"weight": "5%", "duration": "1m"}]}}, "spec.rollout.steps[0].weight"),
        (3, {"rollout": {"mode": "Restart"}}, "spec.rollout.mode"),
        (4, {"rollout": {"gates": {"maxErrorRate": "1%"}}}, "spec.rollout.gates.maxErrorRate"),
    ):
        name = rig.roll(version, **spec)
        status = rig.machine.wait_for_phase(name, "NotSupported")
        assert field in status["message"]
    assert rig.answer() == 2.0
