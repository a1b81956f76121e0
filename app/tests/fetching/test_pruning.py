"""Versions that a fetcher brought and nobody wants any more go; all others stay."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from windlass_contract.artifact import read_manifest
from windlass_contract.fetching import OWN_FOLDER, FetchNote, lock_path, note_path
from windlass_contract.plan import ModelPlan, ServingPlan
from windlass_server.fetching.download import Bounds, Wanted, locked
from windlass_server.fetching.fetcher import Fetcher, write_note
from windlass_server.fetching.https_source import HttpsSource
from windlass_server.fetching.pruning import prune, read_note
from windlass_testing import connections_closed
from windlass_testing.models import affine_tflite
from windlass_testing.one_machine import wait_until
from windlass_testing.web_folder import web_folder

KEEP = 900.0


class Volume:
    """A folder of models with `m/1` in its place, whose note says that a fetcher brought it, long ago."""

    def __init__(self, folder: Path) -> None:
        self.models = folder
        (folder / OWN_FOLDER).mkdir()
        self.place = affine_tflite(folder, "m", 1, 2.0, 0.0)
        self.digest = read_manifest(self.place).digest
        self.note = folder / note_path(self.digest)
        self.say(model="m", version=1)

    def say(self, age: float = KEEP + 60, **place: object) -> None:
        write_note(self.note, FetchNote(digest=self.digest, uri="https://h/m/1", progress=1.0, **place))
        then = time.time() - age
        os.utime(self.note, (then, then))


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


def test_what_no_plan_has_named_for_long_is_removed_with_its_note(volume: Volume) -> None:
    assert prune(volume.models, volume.digest, KEEP)
    assert not volume.place.exists()
    assert not volume.note.exists()
    assert [each.name for each in (volume.models / OWN_FOLDER).iterdir()] == [Path(lock_path(volume.digest)).name]


def renewed(volume: Volume) -> None:
    volume.say(age=KEEP - 60, model="m", version=1)


def put_there_by_a_person(volume: Volume) -> None:
    volume.say()


def noteless(volume: Volume) -> None:
    volume.note.unlink()


def damaged(volume: Volume) -> None:
    volume.note.write_text("{")


@pytest.mark.parametrize("how", [renewed, put_there_by_a_person, noteless, damaged])
def test_everything_else_stays(volume: Volume, how: Callable[[Volume], None]) -> None:
    how(volume)
    assert not prune(volume.models, volume.digest, KEEP)
    assert read_manifest(volume.place).digest == volume.digest


def test_what_another_fetcher_is_at_stays(volume: Volume) -> None:
    with locked(volume.models / lock_path(volume.digest)):
        assert not prune(volume.models, volume.digest, KEEP)
    assert volume.place.exists()


def test_other_files_in_its_place_stay(volume: Volume) -> None:
    (volume.place / "manifest.json").write_text((volume.place / "manifest.json").read_text().replace('"m"', '"n"'))
    prune(volume.models, volume.digest, KEEP)
    assert (volume.place / "manifest.json").exists()


def test_a_link_in_its_place_stays(volume: Volume) -> None:
    elsewhere = volume.models / "elsewhere"
    volume.place.rename(elsewhere)
    volume.place.symlink_to(elsewhere)
    prune(volume.models, volume.digest, KEEP)
    assert (elsewhere / "manifest.json").exists()


def test_a_fetcher_notes_what_it_brought_and_not_what_was_there_before(tmp_path: Path) -> None:
    affine_tflite(tmp_path / "web", "m", 1, 2.0, 0.0)
    models = tmp_path / "models"
    affine_tflite(models, "m", 2, 3.0, 0.0)
    with web_folder(tmp_path / "web", tmp_path) as web:
        port = int(web.url.rpartition(":")[2])
        source = HttpsSource(
            (f"localhost:{port}",), plain=False, ca_file=web.ca_file, netrc_file=None, stall_seconds=5.0
        )
        brought, found = (
            Wanted("m", number, read_manifest(folder / "m" / str(number)).digest, f"{web.url}/m/{number}")
            for number, folder in ((1, tmp_path / "web"), (2, models))
        )
        for _ in range(2):  # also after it was started anew
            fetcher = Fetcher("s", models, {"https": source}, Bounds(1024**2, 30), KEEP)
            connections_closed.run(_until_renewed(fetcher, brought, found))
    assert read_manifest(models / "m" / "1").digest == brought.digest
    said = [read_note(models / note_path(each.digest)) for each in (brought, found)]
    assert [(note.model, note.version) for note in said if note] == [("m", 1), (None, None)]


async def _until_renewed(fetcher: Fetcher, *wanted: Wanted) -> None:
    """Follows a plan that names these until each has a note that says it is there, written by this run."""
    began = time.time_ns()
    notes = [fetcher._models / note_path(each.digest) for each in wanted]
    planned = [{"version": each.version, "digest": each.digest, "uri": each.uri} for each in wanted]
    fetcher.apply(ServingPlan.build("s", 1, {"m": ModelPlan.parse({"versions": planned}, "test")}))
    fetcher.begin()

    def renewed() -> bool:
        return all(
            path.exists() and path.stat().st_mtime_ns >= began and (note := read_note(path)) and note.progress == 1.0
            for path in notes
        )

    running = asyncio.create_task(fetcher.run())
    try:
        await asyncio.to_thread(wait_until, "both are noted", renewed, 30)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
