"""Reading a real directory, with clocks that the test moves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from windlass_operator.directory_driver import scan as scan_module
from windlass_operator.directory_driver.catalogue import Bad, Good
from windlass_operator.directory_driver.scan import DELETION_SECONDS, SETTLE_SECONDS, DirectoryScanner, Scan

TEXT = """
apiVersion: windlass.dev/v1alpha1
kind: ModelVersion
metadata: {{name: {name}}}
spec: {{server: cats, model: m, version: {version}, artifact: {{uri: "volume://"}}}}
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scanner(tmp_path: Path, clock: Clock) -> DirectoryScanner:
    # A wall clock far ahead: files that are there at the start are old.
    return DirectoryScanner(tmp_path, clock, lambda: 1e12)


def text(name: str = "a", version: int = 1) -> str:
    return TEXT.format(name=name, version=version)


def kinds(scan: Scan) -> dict[str, str]:
    return {entry.file: type(entry).__name__ for entry in scan.entries}


def test_files_that_are_there_at_the_start_count_at_once(tmp_path: Path, scanner: DirectoryScanner) -> None:
    (tmp_path / "a.yaml").write_text(text())
    (tmp_path / "b.yml").write_text("a: [")
    (tmp_path / ".hidden.yaml").write_text("a: [")
    (tmp_path / "notes.txt").write_text("a: [")
    (tmp_path / "c.yaml").write_text("services: {}")
    scan = scanner.scan()
    assert kinds(scan) == {"a.yaml": "Good", "b.yml": "Bad", "c.yaml": "Foreign"}
    assert scan.again_in is None


def test_new_content_counts_once_it_was_the_same_for_a_while(
    tmp_path: Path, scanner: DirectoryScanner, clock: Clock
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text())
    scanner.scan()
    path.write_text(text()[:40])
    scan = scanner.scan()
    assert kinds(scan) == {"a.yaml": "Good"}, "what it said before"
    assert scan.again_in == SETTLE_SECONDS
    clock.now += SETTLE_SECONDS / 2
    path.write_text(text(version=2))
    assert kinds(scanner.scan()) == {"a.yaml": "Good"}
    clock.now += SETTLE_SECONDS
    entry = scanner.scan().entries[0]
    assert isinstance(entry, Good)
    assert entry.model_version.spec.version == 2


def test_a_file_that_is_just_being_written_at_the_start_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text())
    scanner = DirectoryScanner(tmp_path, clock, lambda: path.stat().st_mtime)
    scan = scanner.scan()
    assert (scan.entries, scan.unsettled) == ((), frozenset({"a.yaml"}))
    clock.now += scan.again_in or 0
    assert kinds(scanner.scan()) == {"a.yaml": "Good"}


def test_a_file_that_vanishes_for_a_moment_is_not_deleted(
    tmp_path: Path, scanner: DirectoryScanner, clock: Clock
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text())
    scanner.scan()
    path.rename(tmp_path / "a.yaml~")
    scan = scanner.scan()
    assert scan.unsettled == frozenset({"a.yaml"})
    assert scan.again_in is not None
    (tmp_path / "a.yaml~").rename(path)
    clock.now += DELETION_SECONDS
    assert kinds(scanner.scan()) == {"a.yaml": "Good"}
    path.unlink()
    assert scanner.scan().unsettled == frozenset({"a.yaml"})
    clock.now += DELETION_SECONDS
    scan = scanner.scan()
    assert (scan.entries, scan.unsettled, scan.again_in) == ((), frozenset(), None)


def test_a_file_known_from_before_the_start_is_looked_for(scanner: DirectoryScanner, clock: Clock) -> None:
    known = frozenset({"a.yaml"})
    assert scanner.scan(known).unsettled == known
    clock.now += DELETION_SECONDS
    assert scanner.scan(known).unsettled == frozenset()


def test_what_can_not_be_read_is_a_problem_and_never_waited_for(
    tmp_path: Path, scanner: DirectoryScanner, clock: Clock
) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "large.yaml").write_bytes(b"#" * (scan_module.MAX_DOCUMENT_BYTES + 1))
    scanner.scan()
    clock.now += SETTLE_SECONDS
    scan = scanner.scan()
    messages = {entry.file: entry.message for entry in scan.entries if isinstance(entry, Bad)}
    assert "no regular file" in messages["pipe.yaml"]
    assert "no regular file" in messages["folder.yaml"]
    assert "link to nothing" in messages["dangling.yaml"]
    assert "more than" in messages["large.yaml"]


def test_a_directory_that_is_gone_is_unreadable_and_its_files_are_not_deleted(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "a.yaml").write_text(text())
    scanner = DirectoryScanner(folder, clock, lambda: 1e12)
    scanner.scan()
    folder.rename(tmp_path / "away")
    clock.now += 100
    scan = scanner.scan()
    assert "can't be listed" in scan.unreadable
    assert "a.yaml" in scan.unsettled


def test_more_files_than_are_read_make_the_directory_unreadable(
    tmp_path: Path, scanner: DirectoryScanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "MAX_FILES", 3)
    for number in range(4):
        (tmp_path / f"{number}.yaml").write_text(text())
    assert "more than 3" in scanner.scan().unreadable


def test_a_mounted_config_map_is_read_through_its_links(
    tmp_path: Path, scanner: DirectoryScanner, clock: Clock
) -> None:
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "a.yaml").write_text(text(version=number))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert kinds(scanner.scan()) == {"a.yaml": "Good"}
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    scanner.scan()
    clock.now += SETTLE_SECONDS
    entry = scanner.scan().entries[0]
    assert isinstance(entry, Good)
    assert entry.model_version.spec.version == 2


def test_a_bad_decision_says_why_and_holds_nothing_up(tmp_path: Path, scanner: DirectoryScanner) -> None:
    (tmp_path / "a.yaml").write_text(text())
    (tmp_path / "a.x1.decision.yaml").write_text("kind: Decision")
    scan = scanner.scan()
    assert kinds(scan) == {"a.yaml": "Good"}
    assert scan.decisions == ()
    assert [bad.file for bad in scan.bad_decisions] == ["a.x1.decision.yaml"]
