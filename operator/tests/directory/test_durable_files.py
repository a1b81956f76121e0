"""The lock, the durable objects and the other files: a crash or another writer leaves the old content or the new."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from windlass_contract.model_version import Condition, ConditionStatus, ConditionType, ModelVersionStatus
from windlass_contract.plan import ServingPlan
from windlass_contract.record import ServerState
from windlass_operator.directory_driver import files
from windlass_operator.directory_driver.events import EventLog
from windlass_operator.directory_driver.lock import StateLock
from windlass_operator.directory_driver.statuses import StatusFiles
from windlass_operator.directory_driver.store import StateStore
from windlass_operator.directory_driver.tokens import ensure_token
from windlass_operator.driving.durable import DamagedStateError, StoreConflictError, StoreError
from windlass_operator.driving.people import with_transition_times
from windlass_operator.engine.interface import Event


def state(epoch: int) -> ServerState:
    return ServerState(server="cats", plan=ServingPlan.build("cats", epoch, {}))


@pytest.fixture
def lock(tmp_path: Path) -> StateLock:
    lock = StateLock(tmp_path / "lock")
    assert lock.try_acquire()
    return lock


@pytest.fixture
def store(tmp_path: Path, lock: StateLock) -> StateStore:
    (tmp_path / "servers").mkdir()
    return StateStore(tmp_path / "servers", lock)


def test_what_was_written_is_read_with_its_generation(store: StateStore) -> None:
    assert store.read("cats").generation == ""
    generation = store.write("cats", state(1), "")
    stored = store.read("cats")
    assert (stored.state, stored.generation) == (state(1), generation)
    assert store.generation("cats") == generation
    assert store.servers() == ["cats"]


def test_a_write_computed_from_another_generation_is_refused(store: StateStore) -> None:
    first = store.write("cats", state(1), "")
    old_copy = store.path("cats").read_bytes()
    second = store.write("cats", state(2), first)
    for expected in ("", first):
        with pytest.raises(StoreConflictError, match="changed by somebody else"):
            store.write("cats", state(3), expected)
    store.path("cats").write_bytes(old_copy)
    with pytest.raises(StoreConflictError):
        store.write("cats", state(3), second)
    store.path("cats").unlink()
    with pytest.raises(StoreConflictError):
        store.write("cats", state(3), second)


def test_without_the_lock_nothing_is_written(store: StateStore, lock: StateLock) -> None:
    lock.release()
    with pytest.raises(StoreConflictError, match="isn't held"):
        store.write("cats", state(1), "")


def test_a_lock_whose_file_was_replaced_is_lost(tmp_path: Path, lock: StateLock) -> None:
    assert lock.holds()
    (tmp_path / "lock").unlink()
    assert not lock.holds()
    other = StateLock(tmp_path / "lock")
    assert other.try_acquire()
    assert not lock.holds()
    assert not StateLock(tmp_path / "lock").try_acquire()


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    path = tmp_path / "other"
    code = (
        "import sys; from pathlib import Path; from windlass_operator.directory_driver.lock import StateLock\n"
        "lock = StateLock(Path(sys.argv[1])); print(lock.try_acquire(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        mine = StateLock(path)
        assert not mine.try_acquire()
        process.kill()
        process.wait()
        assert mine.try_acquire()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"server": "dogs"}', b"\xff\xfe", b'{"server": "cats", "plan": {}}']
)
def test_a_damaged_object_is_put_aside_and_can_be_looked_at(store: StateStore, damage: bytes) -> None:
    store.write("cats", state(1), "")
    store.path("cats").write_bytes(damage)
    with pytest.raises(DamagedStateError):
        store.read("cats")
    aside = store.put_aside("cats")
    assert aside.read_bytes() == damage
    assert (store.read("cats").state, store.servers()) == (None, [])


def test_a_plan_edited_by_hand_is_damage(store: StateStore) -> None:
    store.write("cats", state(1), "")
    text = store.path("cats").read_text()
    store.path("cats").write_text(text.replace('"epoch": 1', '"epoch": 7'))
    with pytest.raises(DamagedStateError, match="damaged or edited by hand"):
        store.read("cats")


def test_an_object_that_can_not_be_read_is_not_taken_for_missing(store: StateStore) -> None:
    store.path("cats").mkdir()
    with pytest.raises(StoreError, match="no regular file"):
        store.read("cats")
    with pytest.raises(StoreError):
        store.write("cats", state(1), "")


def test_a_write_that_fails_half_way_leaves_the_old_content(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = store.write("cats", state(1), "")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        store.write("cats", state(2), generation)
    monkeypatch.undo()
    assert store.read("cats").state == state(1)
    assert [path.name for path in store.folder.iterdir()] == ["cats.json"], "nothing is left lying about"


def folders_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a rename isn't known to last."""
    real = os.fsync

    def fail(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)


def test_what_was_renamed_and_is_not_known_to_last_counts_only_once_it_was_written_anew(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = store.write("cats", state(1), "")
    folders_fail(monkeypatch)
    with pytest.raises(StoreError, match="Input/output error"):
        store.write("cats", state(2), generation)
    for look in (store.read, store.generation):
        with pytest.raises(StoreError, match="Input/output error"):
            look("cats")
    inode = store.path("cats").stat().st_ino
    monkeypatch.undo()
    assert store.read("cats").state == state(2)
    assert store.path("cats").stat().st_ino != inode, "a second sync alone may say yes to what the first one lost"


def test_an_object_that_another_left_is_made_to_last_before_it_counts(
    store: StateStore, lock: StateLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("cats", state(1), "")
    folders_fail(monkeypatch)
    with pytest.raises(StoreError, match="can't be synced"):
        StateStore(store.folder, lock).read("cats")


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    seen: list[tuple[str, bytes]] = []
    real = os.fsync

    def spy(descriptor: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"  # noqa: PTH112
        seen.append((kind, path.read_bytes()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    files.write_atomically(path, b"new")
    assert seen == [("file", b"old"), ("folder", b"new")]


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".cats.json.0a1b.windlass-tmp").write_text("half")
    (tmp_path / "cats.json").write_text("whole")
    files.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cats.json"]


def test_a_token_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    assert ensure_token(tmp_path, "cats")
    path = tmp_path / "cats"
    assert path.stat().st_mode & 0o777 == 0o600
    token = path.read_text().strip()
    assert len(token) >= 32
    assert not ensure_token(tmp_path, "cats")
    assert path.read_text().strip() == token
    assert ensure_token(tmp_path, "dogs")
    assert (tmp_path / "dogs").read_text().strip() != token


def test_events_are_bounded_and_one_line_each(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", max_bytes=2000)
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    for number in range(100):
        log.append("cats", [Event("a", "Normal", "Committed", f"line\n{number}")], at)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert sum(sizes) < 5000
    last = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
    assert last == {
        "at": "2030-01-02T03:04:05.000Z",
        "server": "cats",
        "modelVersion": "a",
        "type": "Normal",
        "reason": "Committed",
        "message": "line\n99",
    }


def test_two_operators_that_log_at_once_lose_no_event(tmp_path: Path) -> None:
    """One of them was replaced a moment ago. The file before the present one is kept until that one is full."""
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    logs = [EventLog(tmp_path / "events.jsonl", max_bytes=60_000) for _ in range(2)]
    texts = [[f"{who}-{number}" for number in range(300)] for who in "ab"]

    def append(log: EventLog, messages: list[str]) -> None:
        for message in messages:
            log.append("cats", [Event("a", "Normal", "Committed", message)], at)

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(append, *each) for each in zip(logs, texts, strict=True)]:
            done.result()
    files_ = sorted(tmp_path.iterdir())
    assert len(files_) == 2
    lines = [json.loads(line)["message"] for path in files_ for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted([*texts[0], *texts[1]])


def test_half_a_line_left_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"whole": 1}\n{"hal')
    with files.exclusive(path) as descriptor:
        files.append_line(descriptor, b'{"whole": 2}')
    assert path.read_bytes() == b'{"whole": 1}\n{"hal\n{"whole": 2}\n'


def status(ready: ConditionStatus, message: str = "") -> ModelVersionStatus:
    condition = Condition(type=ConditionType.READY, status=ready, reason="Because", message=message)
    return ModelVersionStatus(phase="Serving", conditions=[condition])


def test_a_status_is_written_only_when_it_changed_even_over_a_restart(tmp_path: Path) -> None:
    now = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    first = StatusFiles(tmp_path)
    assert first.update({"a": status(ConditionStatus.TRUE)}, now) == ["a"]
    inode = (tmp_path / "a.yaml").stat().st_ino
    later = now + timedelta(hours=1)
    assert first.update({"a": status(ConditionStatus.TRUE)}, later) == []
    second = StatusFiles(tmp_path)
    assert second.load() == []
    assert second.update({"a": status(ConditionStatus.TRUE)}, later) == []
    assert (tmp_path / "a.yaml").stat().st_ino == inode


def test_a_status_that_can_not_be_written_keeps_no_other_from_being_written(tmp_path: Path) -> None:
    statuses = {name: ModelVersionStatus(phase="Serving") for name in ("a" * 253, "b" * 250, "cats-1")}
    with pytest.raises(OSError, match="too long"):
        StatusFiles(tmp_path).update(statuses)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["b" * 250, "cats-1"]


def test_the_transition_time_changes_with_the_status_alone(tmp_path: Path) -> None:
    now = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    later = now + timedelta(minutes=5)
    dated = with_transition_times(status(ConditionStatus.TRUE), (), now)
    assert dated.conditions[0].last_transition_time == "2030-01-02T03:04:05Z"
    same = with_transition_times(status(ConditionStatus.TRUE, "other words"), dated.conditions, later)
    assert same.conditions[0].last_transition_time == "2030-01-02T03:04:05Z"
    flipped = with_transition_times(status(ConditionStatus.FALSE), dated.conditions, later)
    assert flipped.conditions[0].last_transition_time == "2030-01-02T03:09:05Z"


def test_statuses_of_what_is_gone_are_removed_and_damaged_ones_written_anew(tmp_path: Path) -> None:
    (tmp_path / "gone.yaml").write_text("status: {phase: Serving}")
    (tmp_path / "a.yaml").write_text("status: [")
    statuses = StatusFiles(tmp_path)
    assert len(statuses.load()) == 1
    assert sorted(statuses.update({"a": status(ConditionStatus.TRUE)})) == ["a", "gone"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]
    assert "Serving" in (tmp_path / "a.yaml").read_text()
