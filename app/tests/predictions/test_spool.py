"""The spool: what `append` returned from is handed out, in order, whatever happens to the files' ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_server.predictions.settings import PredictionLogError
from windlass_server.predictions.spool import Spool

DAY = 24 * 3600.0


def open_spool(folder: Path, **changes: Any) -> Spool:
    return Spool(folder, **{"max_bytes": 2**20, "max_age_seconds": DAY, "segment_bytes": 2**20, **changes})


def everything(spool: Spool, limit: int = 3) -> list[bytes]:
    records = []
    while batch := spool.take(limit):
        assert len(batch) <= limit
        records += batch
    return records


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def numbered(count: int, size: int = 20) -> list[bytes]:
    return [b"%06d" % number + b"." * (size - 6) for number in range(count)]


@settings(deadline=None)
@given(batches=st.lists(st.lists(st.binary(max_size=60), max_size=6), max_size=12), limit=st.integers(1, 7))
def test_records_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[bytes]], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = open_spool(folder, segment_bytes=64)
    for batch in batches:
        spool.append(batch)
    expected = [record for batch in batches for record in batch]
    spool.close()
    again = open_spool(folder)
    assert everything(again, limit) == expected
    assert again.damaged == again.dropped == 0
    again.stored()
    again.close()
    assert segments(folder) == []


def test_what_was_taken_but_not_stored_is_handed_out_again_after_a_restart(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(numbered(10))
    assert spool.take(4) == numbered(10)[:4]
    spool.close()
    assert everything(open_spool(tmp_path)) == numbered(10)


def test_stored_segments_are_removed_and_the_others_stay(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, segment_bytes=100)
    for record in numbered(30):
        spool.append([record])
    assert len(segments(tmp_path)) > 5
    first = spool.take(10)
    spool.stored()
    spool.close()
    again = open_spool(tmp_path)
    rest = everything(again)
    assert rest[-20:] == numbered(30)[10:]
    assert len(first) + len(rest) < 30 + 4, "only the segment that was being read is read again"


def test_a_segment_that_is_always_stored_does_not_grow(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    largest = 0
    for _ in range(60):
        spool.append(numbered(100, 200))
        assert len(everything(spool, 500)) == 100
        spool.stored()
        largest = max(largest, sum(path.stat().st_size for path in segments(tmp_path)))
    assert largest < 300 * 1024
    assert len(segments(tmp_path)) == 1


def test_a_segment_cut_at_any_byte_keeps_the_records_before_the_cut(tmp_path: Path) -> None:
    records = numbered(4)
    spool = open_spool(tmp_path)
    spool.append(records)
    spool.close()
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        again = open_spool(tmp_path)
        assert everything(again) == records[: length // 28], length
        assert again.damaged == (1 if length % 28 else 0), length
        again.append([b"new"])
        assert everything(again) == [b"new"]
        os.close(again._lock)  # As a kill would; close() would remove the segments.
        segments(tmp_path)[-1].unlink()


def test_a_changed_byte_anywhere_is_never_taken_for_a_record(tmp_path: Path) -> None:
    records = numbered(3)
    spool = open_spool(tmp_path)
    spool.append(records)
    spool.close()
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        again = open_spool(tmp_path)
        assert everything(again) == records[: position // 28], position
        assert again.damaged == 1
        os.close(again._lock)


def test_after_a_damaged_segment_the_next_is_read(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, segment_bytes=1)
    for record in numbered(3):
        spool.append([record])
    segments(tmp_path)[1].write_bytes(b"\xff" * 28)
    assert everything(spool) == [numbered(3)[0], numbered(3)[2]]
    assert spool.damaged == 1


def test_the_oldest_go_beyond_the_bound_of_size(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=1000)
    records = numbered(200)
    for record in records:
        spool.append([record])
        assert spool.size_bytes <= 1000
    kept = everything(spool)
    assert kept == records[-len(kept) :]
    assert len(kept) >= 20
    assert spool.dropped == 200 - len(kept)


def test_what_was_already_taken_does_not_count_as_dropped(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=1000)
    taken = 0
    for record in numbered(200):
        spool.append([record])
        if not taken:
            taken = len(spool.take(1))
    assert 1 + spool.dropped + len(everything(spool)) == 200


def test_segments_beyond_the_bound_of_age_go(tmp_path: Path) -> None:
    now = 1000.0
    spool = open_spool(tmp_path, max_age_seconds=100, segment_bytes=1, clock=lambda: now)
    spool.append([b"old"])
    now = 1090.0
    spool.append([b"new"])
    spool.trim()
    assert spool.dropped == 0
    now = 1150.0
    spool.trim()
    assert spool.dropped == 1
    assert everything(spool) == [b"new"]
    now = 1300.0
    spool.append([b"newest"])
    assert everything(spool) == [b"newest"]


def test_the_age_is_known_after_a_restart(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append([b"old"])
    spool.close()
    (path,) = segments(tmp_path)
    os.utime(path, (1_000_000, 1_000_000))
    again = open_spool(tmp_path)
    again.trim()
    assert again.dropped == 1
    assert everything(again) == []


def test_a_full_disk_keeps_what_was_written_before(tmp_path: Path, small_files: None) -> None:
    """A file that may not grow fails in mid-write, as a full disk does."""
    spool = open_spool(tmp_path)
    good = numbered(100)
    spool.append(good[:50])
    with pytest.raises(OSError, match="too large"):
        spool.append([b"x" * 30_000, b"y" * 60_000])
    spool.append(good[50:])
    assert everything(spool) == good
    spool.close()
    assert spool.damaged == 0


@pytest.fixture
def small_files():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_is_removed_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spool = open_spool(folder)
    spool.append([b"gone"])
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    spool.append([b"here"])
    assert everything(spool) == [b"here"]


def test_foreign_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.spool").write_text("mine")
    (tmp_path / "README").write_text("mine")
    spool = open_spool(tmp_path)
    spool.append([b"one"])
    assert everything(spool) == [b"one"]
    spool.stored()
    spool.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README", "lock", "notes.spool"]


def test_a_second_holder_is_refused(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    with pytest.raises(PredictionLogError, match="state directory of its own"):
        open_spool(tmp_path)
    spool.close()
    open_spool(tmp_path).close()


def test_what_was_taken_and_given_back_is_handed_out_again_and_counted_when_its_segment_goes(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=1000, segment_bytes=200)
    spool.append(numbered(7))
    assert spool.take(4) == numbered(7)[:4]
    spool.give_back()
    spool.give_back()
    assert spool.take(4) == numbered(7)[:4]
    for _ in range(6):
        spool.append(numbered(7))
    assert spool.dropped % 7 == 3, "the four in hand may still be stored"
    spool.give_back()
    assert spool.dropped % 7 == 0
    assert spool.dropped + len(everything(spool)) == 49
