"""Artifacts made to harm whoever reads them, beside a good version that serves under load: each is refused, with the
file named, and none is a verdict on the model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass_contract.artifact import read_manifest
from windlass_testing.models import affine
from windlass_testing.one_machine import wait_until

pytestmark = [pytest.mark.hardening, pytest.mark.evidence]

WEIGHTS = "variables/variables.data-00000-of-00001"
DECLARED = "sha256:" + "0" * 64
TEBIBYTE = 2**40


def listing(path: str) -> Callable[[Path], None]:
    """The manifest lists another path for the weights."""

    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][-1]["path"] = path
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return change


def instead(make: Callable[[Path], Any], name: str = WEIGHTS) -> Callable[[Path], None]:
    """Something else is where a file was."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def sparse(path: Path) -> None:
    """A tebibyte that takes no room."""
    with path.open("wb") as file:
        file.truncate(TEBIBYTE)


def a_million_entries(folder: Path) -> None:
    """Listed, in a manifest of about 100 MB."""
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = json.dumps(manifest["files"][0]).replace(manifest["files"][0]["path"], "f%07d")
    head, tail = json.dumps({**manifest, "files": ["HERE"]}).split('"HERE"')
    with (folder / "manifest.json").open("w") as file:
        file.write(head)
        file.writelines((entry % number) + ("," if number < 999_999 else "") for number in range(1_000_000))
        file.write(tail)


def many_folders(folder: Path) -> None:
    """More than are looked at; a million of them would be given up at the same place."""
    (folder / "many").mkdir()
    for number in range(20_001):
        (folder / "many" / str(number)).mkdir()


CASES: list[tuple[Callable[[Path], None], str, str]] = [
    (listing("../../../etc/passwd"), "ManifestInvalid", "inside the version's folder"),
    (listing("variables/../../2/x"), "ManifestInvalid", "inside the version's folder"),
    (listing("/etc/passwd"), "ManifestInvalid", "inside the version's folder"),
    (instead(lambda path: path.symlink_to("/etc/passwd")), "FileIrregular", WEIGHTS),
    (instead(lambda path: path.symlink_to("../../1/" + WEIGHTS)), "FileIrregular", WEIGHTS),
    (instead(os.mkfifo), "FileIrregular", WEIGHTS),
    (instead(sparse), "FileSizeMismatch", f"has {TEBIBYTE} bytes"),
    (instead(os.mkfifo, "manifest.json"), "FileIrregular", "manifest.json"),
    (instead(lambda path: path.symlink_to("/dev/zero"), "manifest.json"), "FileIrregular", "manifest.json"),
    (instead(sparse, "manifest.json"), "ManifestInvalid", "manifest.json"),
    (a_million_entries, "ManifestInvalid", "manifest.json"),
    (many_folders, "FileUnlisted", "more than 20000 entries"),
]
NAMES = [
    *("path traversal", "path traversal inside", "absolute path", "link out of the folder", "link within the models"),
    *("pipe", "sparse file", "pipe as manifest", "device as manifest", "sparse manifest", "a million entries"),
    "many folders",
]


@pytest.mark.parametrize(
    ("what", "harm", "reason", "named"), [(what, *case) for what, case in zip(NAMES, CASES, strict=True)], ids=NAMES
)
def test_a_hostile_artifact_is_refused_and_nothing_waits_for_it(
    rig: Any, what: str, harm: Callable[[Path], None], reason: str, named: str
) -> None:
    folder = affine(rig.machine.models, rig.model, 2, 9, 0)
    digest = read_manifest(folder).digest
    harm(folder)
    with rig.undisturbed(f"an artifact with: {what}"):
        # The digest is declared right where it can be: what differs is to be found behind it.
        name = rig.roll(2, digest=digest if reason.startswith("File") else DECLARED)
        status = rig.machine.wait_for_phase(name, "Stalled")
    assert reason in {condition["reason"] for condition in status["conditions"]}, status
    assert named in status["message"]
    assert rig.answer() == 2.0


def test_files_that_change_between_the_check_and_the_load_are_noticed_before_any_traffic(rig: Any) -> None:
    folder = affine(rig.machine.models, rig.model, 2, 3, 0, load_seconds=4)
    good = (folder / WEIGHTS).read_bytes()
    with rig.undisturbed("an artifact with: files that change while they are loaded"):
        name = rig.roll(2, digest=read_manifest(folder).digest)
        wait_until(
            "it is being loaded",
            lambda: rig.replica.get("/health").json()["models"].get(rig.model, {}).get("2") == "Loading",
        )
        (folder / WEIGHTS).write_bytes(good[:-1] + b"\xee")
        status = rig.machine.wait_for_phase(name, "Stalled")
    assert "FileDigestMismatch" in {condition["reason"] for condition in status["conditions"]}
    assert WEIGHTS in status["message"]
    (folder / WEIGHTS).write_bytes(good)
    rig.machine.wait_for_phase(name, "Serving")
    assert rig.answer() == 3.0
