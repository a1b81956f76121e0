"""A version's folder on a real disk: it counts only when every file is what the manifest says."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass_contract import artifact
from windlass_contract.artifact import ArtifactError, check_file, list_files, read_manifest, verify
from windlass_contract.canonical import digest_of
from windlass_contract.failures import Gate, Reason
from windlass_contract.manifest import MANIFEST_NAME, MAX_FILES, MAX_MANIFEST_BYTES

WEIGHTS = "variables/variables.data-00000-of-00001"
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete version with three files of its own and one in a folder below."""
    path = tmp_path / "digits" / "3"
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"graph" * 100)
    (path / WEIGHTS).write_bytes(bytes(range(256)) * 8192)
    (path / "variables" / "variables.index").write_bytes(b"index")
    (path / "empty").write_bytes(b"")
    write_manifest(path)
    return path


def write_manifest(folder: Path, **changes: Any) -> None:
    value = {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "Manifest",
        "model": "digits",
        "version": 3,
        "format": "SavedModel",
        "files": [entry.to_dict() for entry in list_files(folder)],
        "signatures": {
            "serving_default": {"inputs": {}, "outputs": {"y": {"datatype": "FP32", "shape": [-1, 10]}}},
        },
        **changes,
    }
    (folder / MANIFEST_NAME).write_text(json.dumps(value))


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((folder / MANIFEST_NAME).read_text())
    edit(value)
    (folder / MANIFEST_NAME).write_text(json.dumps(value))


def refused(folder: Path, **arguments: Any) -> artifact.Failure:
    with pytest.raises(ArtifactError) as raised:
        verify(folder, **{"model": "digits", "version": 3, **arguments})
    failure = raised.value.failure
    assert failure.gate is Gate.DIGEST
    assert not failure.is_verdict, "what isn't as declared is read again, and says nothing about the model"
    assert str(raised.value) == failure.message
    return failure


def test_a_complete_version_is_accepted(folder: Path) -> None:
    hashed: list[int] = []
    digest = digest_of(json.loads((folder / MANIFEST_NAME).read_text()))
    found = verify(folder, model="digits", version=3, digest=digest, progress=hashed.append)
    assert found.digest == digest == found.manifest.digest()
    assert found.path == folder
    assert [entry.path for entry in found.manifest.files] == [
        "empty",
        "saved_model.pb",
        WEIGHTS,
        "variables/variables.index",
    ]
    assert sum(hashed) == sum(entry.size for entry in found.manifest.files)
    assert verify(folder, model="digits", version=3).digest == digest


def test_empty_folders_do_not_matter(folder: Path) -> None:
    (folder / "assets").mkdir()
    verify(folder, model="digits", version=3)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def make_socket(path: Path) -> None:
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # A socket's whole path may be too long for the system.
        server.bind(path.name)
    os.chdir(here)


def replace_by_sparse(path: Path) -> None:
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**42)


def link_to_copy(path: Path) -> None:
    """Even one that leads to the right bytes: it may lead elsewhere a moment later."""
    shutil.copy(path, path.parent.parent / "elsewhere")
    path.unlink()
    path.symlink_to(path.parent.parent / "elsewhere")


def link_folder(folder: Path) -> None:
    (folder / "variables").rename(folder.parent / "variables")
    (folder / "variables").symlink_to(folder.parent / "variables")


@pytest.mark.parametrize(
    ("damage", "reason", "file", "words"),
    [
        (shutil.rmtree, Reason.NOT_FOUND, None, "copy the version there"),
        (
            lambda f: (f / MANIFEST_NAME).unlink(),
            Reason.MANIFEST_MISSING,
            MANIFEST_NAME,
            "windlass pack, or windlass adopt",
        ),
        (lambda f: (f / WEIGHTS).unlink(), Reason.FILE_MISSING, WEIGHTS, "the copy is not complete"),
        (lambda f: shutil.rmtree(f / "variables"), Reason.FILE_MISSING, WEIGHTS, "the copy is not complete"),
        (
            lambda f: os.truncate(f / WEIGHTS, 1000),
            Reason.FILE_SIZE_MISMATCH,
            WEIGHTS,
            "has 1000 bytes, 2097152 are listed",
        ),
        (lambda f: os.truncate(f / WEIGHTS, 2**21 - 1), Reason.FILE_SIZE_MISMATCH, WEIGHTS, "truncated"),
        (lambda f: (f / "empty").write_text("x"), Reason.FILE_SIZE_MISMATCH, "empty", "has 1 bytes, 0 are listed"),
        (
            lambda f: replace_by_sparse(f / "saved_model.pb"),
            Reason.FILE_SIZE_MISMATCH,
            "saved_model.pb",
            "4398046511104 bytes",
        ),
        (lambda f: flip(f / WEIGHTS, 0), Reason.FILE_DIGEST_MISMATCH, WEIGHTS, "copy it again"),
        (lambda f: flip(f / WEIGHTS, 2**21 - 1), Reason.FILE_DIGEST_MISMATCH, WEIGHTS, "other bytes"),
        (lambda f: (f / "extra.txt").touch(), Reason.FILE_UNLISTED, "extra.txt", "remove it or pack anew"),
        (lambda f: (f / "variables" / ".hidden").touch(), Reason.FILE_UNLISTED, "variables/.hidden", "not listed"),
        (
            lambda f: (f / "variables" / MANIFEST_NAME).touch(),
            Reason.FILE_UNLISTED,
            "variables/manifest.json",
            "not listed",
        ),
        (lambda f: link_to_copy(f / "saved_model.pb"), Reason.FILE_IRREGULAR, "saved_model.pb", "plain files only"),
        (link_folder, Reason.FILE_IRREGULAR, "variables", "plain files only"),
        (lambda f: (f / "dangling").symlink_to("nowhere"), Reason.FILE_IRREGULAR, "dangling", "link or a special file"),
        (lambda f: os.mkfifo(f / "pipe"), Reason.FILE_IRREGULAR, "pipe", "special file"),
        (lambda f: make_socket(f / "sock"), Reason.FILE_IRREGULAR, "sock", "special file"),
    ],
)
def test_a_folder_that_is_not_as_listed_is_refused(
    folder: Path, damage: Callable[[Path], object], reason: Reason, file: str | None, words: str
) -> None:
    damage(folder)
    failure = refused(folder)
    assert (failure.reason, failure.file) == (reason, file)
    assert words in failure.message
    assert str(folder) in failure.message


@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "socket"])
def test_a_manifest_that_is_no_plain_file_is_refused_without_waiting(folder: Path, kind: str) -> None:
    path = folder / MANIFEST_NAME
    path.rename(folder.parent / "real")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(folder.parent / "real")
    elif kind == "folder":
        path.mkdir()
    else:
        make_socket(path)
    failure = refused(folder)
    assert (failure.reason, failure.file) == (Reason.FILE_IRREGULAR, MANIFEST_NAME)


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_a_file_swapped_after_the_folder_was_listed_is_refused(folder: Path, kind: str) -> None:
    """Between listing and opening somebody may put something else there."""
    entry = verify(folder, model="digits", version=3).manifest.files[1]
    path = folder / entry.path
    path.rename(folder.parent / "real")
    os.mkfifo(path) if kind == "fifo" else path.symlink_to(folder.parent / "real")
    with pytest.raises(ArtifactError, match="plain files only") as raised:
        check_file(folder, entry)
    assert raised.value.failure.reason is Reason.FILE_IRREGULAR


@pytest.mark.parametrize(
    ("expected", "reason", "words"),
    [
        ({"digest": DIGEST}, Reason.DIGEST_MISMATCH, f"declared is {DIGEST}"),
        ({"model": "cats"}, Reason.MANIFEST_MISMATCH, "is of model 'digits' version 3, expected is 'cats' version 3"),
        ({"version": 4}, Reason.MANIFEST_MISMATCH, "expected is 'digits' version 4"),
    ],
)
def test_another_version_than_the_declared_one_is_refused(
    folder: Path, expected: dict[str, Any], reason: Reason, words: str
) -> None:
    failure = refused(folder, **expected)
    assert (failure.reason, failure.file) == (reason, MANIFEST_NAME)
    assert words in failure.message


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "/etc/passwd",
        "variables/../../secret",
        "./saved_model.pb",
        "a//b",
        "a/",
        "a\\b",
        "a\nb",
        "a\x00b",
        "",
        ".",
    ],
)
def test_a_manifest_that_leads_out_of_its_folder_is_refused(folder: Path, path: str) -> None:
    (folder.parent / "secret").write_text("secret")
    edit_manifest(folder, lambda value: value["files"].append({"path": path, "size": 6, "sha256": "0" * 64}))
    failure = refused(folder)
    assert (failure.reason, failure.file) == (Reason.MANIFEST_INVALID, MANIFEST_NAME)
    assert "files[4].path" in failure.message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b"[]", "fields with values (a mapping) are expected"),
        (b"null", "fields with values (a mapping) are expected"),
        (b'{"model": NaN}', "NaN is not JSON"),
        (b'{"model": 1e999}', "too large a number"),
        (b'{"model": "a", "model": "b"}', "the key 'model' is given twice"),
        (b"[" * 100_000, "more than 64 levels deep"),
        (b"[" * 100 + b"]" * 100, "more than 64 levels deep"),
        (b"{}", "model: it is missing"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(folder: Path, data: bytes, words: str) -> None:
    (folder / MANIFEST_NAME).write_bytes(data)
    failure = refused(folder)
    assert (failure.reason, failure.file) == (Reason.MANIFEST_INVALID, MANIFEST_NAME)
    assert words in failure.message


def test_a_manifest_that_is_too_large_is_not_read_to_its_end(folder: Path) -> None:
    with (folder / MANIFEST_NAME).open("r+b") as file:
        file.truncate(2**42)
    failure = refused(folder)
    assert failure.reason is Reason.MANIFEST_INVALID
    assert f"at most {MAX_MANIFEST_BYTES} are read" in failure.message


def test_a_manifest_with_more_files_than_may_be_is_refused(folder: Path) -> None:
    entry = {"size": 0, "sha256": "0" * 64}
    edit_manifest(
        folder, lambda value: value.update(files=[{"path": f"{n:06}", **entry} for n in range(MAX_FILES + 1)])
    )
    failure = refused(folder)
    assert failure.reason is Reason.MANIFEST_INVALID
    assert f"at most {MAX_FILES} entries are allowed" in failure.message


def test_a_message_stays_short_whatever_the_manifest_says(folder: Path) -> None:
    entries = [{"path": "/" * 900, "size": -1, "sha256": "x" * 5000} for _ in range(400)]
    edit_manifest(folder, lambda value: value.update(files=entries))
    assert len(refused(folder).message) <= 2000


def test_a_folder_of_a_million_entries_is_given_up_early(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk ends at the bound; made smaller here, since a million files take a test minutes to make."""
    monkeypatch.setattr(artifact, "MAX_FILES", 50)
    (folder / "many").mkdir()
    for number in range(300):
        (folder / "many" / f"{number:03}").touch()
    names = artifact.walk(folder)
    looked_at = list(itertools.islice(names, 90))
    assert len(looked_at) == 90
    with pytest.raises(ArtifactError, match="holds more than 100 entries") as raised:
        looked_at.extend(names)
    assert raised.value.failure.reason is Reason.FILE_UNLISTED
    assert len(looked_at) <= 100
    assert refused(folder).reason is Reason.FILE_UNLISTED


@pytest.mark.parametrize("depth", [10, 500])
def test_folders_in_folders_are_walked_without_recursion(folder: Path, depth: int) -> None:
    path = folder / "/".join("d" * depth)
    path.mkdir(parents=True)
    (path / "x").touch()
    assert refused(folder).file == "/".join("d" * depth) + "/x"


def test_what_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything: the system's answer is given by hand."""
    real = os.open

    def denied(path: Any, *arguments: Any, **keywords: Any) -> int:
        if str(path).endswith("saved_model.pb"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", denied)
    failure = refused(folder)
    assert (failure.reason, failure.file) == (Reason.FILE_UNREADABLE, "saved_model.pb")
    assert failure.message.endswith("can't be read: Permission denied")


def test_a_disk_that_fails_while_a_file_is_read_is_told_of_as_that(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "read", failing)
    with pytest.raises(ArtifactError) as raised:
        verify(folder, model="digits", version=3)
    assert raised.value.failure.reason is Reason.FILE_UNREADABLE


def test_a_folder_that_cannot_be_looked_at_is_no_missing_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as raised:
        read_manifest(tmp_path / ("x" * 300))
    assert raised.value.failure.reason is Reason.FILE_UNREADABLE


def test_an_extra_file_is_named_even_if_its_name_is_no_text(folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9")).touch()
    with pytest.raises(ArtifactError) as raised:
        verify(folder, model="digits", version=3)
    assert raised.value.failure.reason is Reason.FILE_UNLISTED
    assert raised.value.failure.file == "caf\\udce9"


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def denied(path: Path) -> Any:
        if path.name == "variables":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    failure = refused(folder)
    assert failure.reason is Reason.FILE_UNREADABLE
    assert "can't be read: Permission denied" in failure.message


def test_reading_only_the_manifest_looks_at_no_other_file(folder: Path) -> None:
    shutil.rmtree(folder / "variables")
    assert read_manifest(folder).manifest.version == 3


def test_nothing_stays_open(folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    verify(folder, model="digits", version=3)
    os.mkfifo(folder / "pipe")
    refused(folder)
    (folder / "pipe").unlink()
    (folder / MANIFEST_NAME).unlink()
    os.mkfifo(folder / MANIFEST_NAME)
    refused(folder)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
