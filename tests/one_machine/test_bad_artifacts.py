"""Bad versions never answer, by whatever path they are asked; status says why; the version before serves throughout."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from windlass_contract.artifact import read_manifest
from windlass_contract.manifest import DataType, Signature
from windlass_testing.evidence import measured
from windlass_testing.load import Load
from windlass_testing.models import (
    AFFINE_SIGNATURES,
    affine,
    crashing_at_load,
    spec,
    unloadable,
)
from windlass_testing.one_machine import BIN, wait_until

pytestmark = pytest.mark.evidence

STALLED = "Stalled"
QUARANTINED = "Quarantined"


def half_copied(models: Path, model: str) -> str:
    """The manifest isn't there yet."""
    folder = affine(models, model, 2, 9, 0)
    digest = read_manifest(folder).digest
    (folder / "manifest.json").unlink()
    return digest


def missing_file(models: Path, model: str) -> str:
    """The manifest came first, a file is still missing."""
    folder = affine(models, model, 2, 9, 0)
    (folder / "saved_model.pb").unlink()
    return read_manifest(folder).digest


def truncated(models: Path, model: str) -> str:
    """The last bytes of a file are missing."""
    folder = affine(models, model, 2, 9, 0)
    weights = folder / "variables" / "variables.data-00000-of-00001"
    weights.write_bytes(weights.read_bytes()[:-1])
    return read_manifest(folder).digest


def changed_byte(models: Path, model: str) -> str:
    """One byte of the weights differs."""
    folder = affine(models, model, 2, 9, 0)
    weights = folder / "variables" / "variables.data-00000-of-00001"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(bytes(data))
    return read_manifest(folder).digest


def extra_file(models: Path, model: str) -> str:
    """A file that the manifest doesn't list."""
    folder = affine(models, model, 2, 9, 0)
    (folder / "assets.extra").write_text("surprise")
    return read_manifest(folder).digest


def other_digest(models: Path, model: str) -> str:
    """The files are fine, and not the declared ones."""
    affine(models, model, 2, 9, 0)
    return "sha256:" + "0" * 64


def lying_about_its_version(models: Path, model: str) -> str:
    """The manifest is of another version."""
    folder = affine(models, model, 2, 9, 0)
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 3}))
    return read_manifest(folder).digest


def lying_about_its_signature(models: Path, model: str) -> str:
    """The manifest promises an output that the model hasn't."""
    column = spec(DataType.FP32, [-1, 1])
    signatures = {**AFFINE_SIGNATURES, "serving_default": Signature(inputs={"x": column}, outputs={"z": column})}
    return read_manifest(affine(models, model, 2, 9, 0, signatures=signatures)).digest


def wont_load(models: Path, model: str) -> str:
    """The weights are not weights; the manifest lists them as they are."""
    return read_manifest(unloadable(models, model, 2)).digest


def crashes_at_load(models: Path, model: str) -> str:
    """Its worker dies while loading."""
    return read_manifest(crashing_at_load(models, model, 2)).digest


def wrong_parity(models: Path, model: str) -> str:
    """It doesn't compute what it computed where it was packed."""
    parity = {"serving_default": ({"x": [[1.0]]}, {"y": [[12345.0]]})}
    return read_manifest(affine(models, model, 2, 9, 0, parity=_arrays(parity))).digest


def changed_signature(models: Path, model: str) -> str:
    """Its clients would have to send something else."""
    folder = models / model / "2"
    other = models.parent / f"other-{model}"
    from windlass_testing.models import scorer

    scorer(other, model, 2, [[1.0, 0.0], [0.0, 1.0]])
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(other / model / "2", folder)
    return read_manifest(folder).digest


def _arrays(parity: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    return {
        name: tuple({key: np.asarray(value, np.float32) for key, value in side.items()} for side in sides)
        for name, sides in parity.items()
    }


CASES: list[tuple[Callable[[Path, str], str], str, str, tuple[str, ...]]] = [
    # what, how it ends, the reason, what the message names
    (half_copied, STALLED, "ManifestMissing", ("manifest.json", "windlass pack")),
    (missing_file, STALLED, "FileMissing", ("saved_model.pb",)),
    (truncated, STALLED, "FileSizeMismatch", ("variables.data-00000-of-00001",)),
    (changed_byte, STALLED, "FileDigestMismatch", ("variables.data-00000-of-00001",)),
    (extra_file, STALLED, "FileUnlisted", ("assets.extra",)),
    (other_digest, STALLED, "DigestMismatch", ("sha256:000",)),
    (lying_about_its_version, STALLED, "ManifestMismatch", ("manifest.json",)),
    (lying_about_its_signature, QUARANTINED, "SignatureMismatch", ("z",)),
    (wont_load, QUARANTINED, "LoadFailed", ()),
    (crashes_at_load, QUARANTINED, "WorkerCrashed", ("SIGABRT",)),
    (wrong_parity, QUARANTINED, "ParityFailed", ("12345",)),
    (changed_signature, QUARANTINED, "SignatureChanged", ("serving_default",)),
]


class Asker(threading.Thread):
    """Asks for a version by every path as fast as it can, and keeps what answered."""

    @staticmethod
    def paths(model: str) -> list[tuple[str, dict[str, Any]]]:
        """Every way to ask, and what to send."""
        rows = {"instances": [[1.0]]}
        tensors = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}
        return [
            (f"/v1/models/{model}/versions/2:predict", rows),
            (f"/v1/models/{model}/labels/canary:predict", rows),
            (f"/v1/models/{model}/labels/stable:predict", rows),
            (f"/v1/models/{model}:predict", rows),
            (f"/v2/models/{model}/versions/2/infer", tensors),
            (f"/v2/models/{model}/infer", tensors),
            (f"/predict/{model}", rows),
        ]

    def __init__(self, url: str, model: str) -> None:
        super().__init__(name="asker")
        self.url = url
        self.model = model
        self.asked = 0
        self.from_version_two: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        """Until `ended`."""
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self.ended.is_set():
                for path, body in self.paths(self.model):
                    response = client.post(path, json=body, headers={"X-Model-Version": "2"})
                    self.asked += 1
                    if response.headers.get("X-Model-Version") == "2":
                        self.from_version_two.append(f"{path}: {response.status_code} {response.text[:200]}")


@pytest.mark.parametrize(("build", "phase", "reason", "named"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_bad_version_never_answers_and_its_status_says_why(
    rig: Any, build: Callable[[Path, str], str], phase: str, reason: str, named: tuple[str, ...]
) -> None:
    _refused(rig, build(rig.machine.models, rig.model), phase, reason, named)


def test_a_version_with_wrong_answers_never_answers_and_its_status_says_why(rig: Any) -> None:
    samples = {"samples": [{"name": "one", "inputs": {"x": [1.0]}, "expect": {"values": [4.0]}}]}
    (rig.machine.directory / "accept.json").write_text(json.dumps(samples))
    _refused(
        rig,
        rig.pack(2),
        QUARANTINED,
        "AcceptanceFailed",
        ("one", "expected 4, got 3"),
        verify={"samples": {"file": "accept.json"}},
    )


def _refused(rig: Any, digest: str, phase: str, reason: str, named: tuple[str, ...], **spec: Any) -> None:
    asker = Asker(rig.replica.url, rig.model)
    load = Load(rig.replica.url, rig.requests(), rate=50)
    asker.start()
    try:
        with load:
            rig.roll(2, digest=digest, **spec)
            status = rig.machine.wait_for_phase(rig.name(2), phase)
            seen = asker.asked
            wait_until("it was asked for after the verdict too", lambda: asker.asked > seen + 50)
    finally:
        asker.ended.set()
        asker.join()
    assert asker.from_version_two == []
    assert load.lost == []
    assert {answer.version for answer in load.answers} == {"1"}
    conditions = {condition["type"]: condition for condition in status["conditions"]}
    assert reason in {condition["reason"] for condition in conditions.values()}, conditions
    for words in named:
        assert words in status["message"], status["message"]
    assert rig.machine.status(rig.name(1))["phase"] == "Serving"
    assert rig.answer() == 2.0
    measured(
        "bad-artifacts",
        f"one replica, {reason}: asked by default, number, label, path and header in every phase",
        f"0 of {asker.asked} answers from it, 0 of {len(load.answers)} requests lost",
        "make evidence",
    )


def test_a_half_copied_version_is_taken_once_its_copy_is_complete(rig: Any) -> None:
    folder = affine(rig.machine.models, rig.model, 2, 9, 0)
    manifest = (folder / "manifest.json").read_bytes()
    digest = read_manifest(folder).digest
    (folder / "manifest.json").unlink()
    rig.roll(2, digest=digest)
    rig.machine.wait_for_phase(rig.name(2), STALLED)
    (folder / "manifest.json").write_bytes(manifest)
    rig.machine.wait_for_phase(rig.name(2), "Serving")
    assert rig.answer() == 9.0


def test_packing_the_same_bad_files_anew_is_no_way_round_the_quarantine_until_somebody_clears_it(rig: Any) -> None:
    rig.roll(2, digest=wrong_parity(rig.machine.models, rig.model))
    rig.machine.wait_for_phase(rig.name(2), QUARANTINED)
    again = affine(rig.machine.models, rig.model, 3, 9, 0)
    rig.roll(3, digest=read_manifest(again).digest)
    status = rig.machine.wait_for_phase(rig.name(3), QUARANTINED)
    assert rig.answer() == 2.0
    # What the message tells to do does help.
    assert "or clear version 3, and they may be tried again" in status["message"]
    command = [str(BIN / "windlass"), "clear", rig.name(3), "--directory", str(rig.machine.directory)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    rig.machine.wait_for_phase(rig.name(3), "Serving")
    assert rig.answer() == 9.0
