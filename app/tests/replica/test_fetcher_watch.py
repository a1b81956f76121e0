"""What a replica makes of what a fetcher leaves in the folder of models."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.fetching import OWN_FOLDER, SIGN_NAME, SIGNLESS_SECONDS, FetcherSign, FetchNote, note_path
from windlass_contract.plan import PlannedVersion
from windlass_server.fetching.fetcher import write_note
from windlass_server.hosting import fetcher_watch
from windlass_server.hosting.fetcher_watch import FetcherWatch, NotFetchedError
from windlass_server.hosting.order import Key

DIGEST = "sha256:" + "a" * 64
KEY = Key("m", 1, DIGEST)
URI = "https://models.example.com/m/1"
PLANNED = PlannedVersion(version=1, digest=DIGEST, uri=URI)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / OWN_FOLDER).mkdir()
    return tmp_path


def sign(models: Path, *schemes: str, age: float = 0) -> None:
    path = models / OWN_FOLDER / SIGN_NAME
    write_note(path, FetcherSign(schemes=list(schemes)))
    os.utime(path, (time.time() - age,) * 2)


def looked(models: Path) -> FetcherWatch:
    watch = FetcherWatch(models)
    watch._schemes = watch._look()
    return watch


def missing(watch: FetcherWatch, planned: PlannedVersion = PLANNED) -> NotFetchedError:
    with pytest.raises(NotFetchedError) as caught:
        asyncio.run(watch.arrived(KEY, planned))
    return caught.value


def test_a_fetcher_is_at_work_while_it_gives_signs_of_life(models, monkeypatch):
    assert looked(models).schemes == ()
    sign(models, "https", "s3", age=SIGNLESS_SECONDS + 1)
    watch = looked(models)
    assert watch.schemes == (), "an old sign is none"
    sign(models, "https", "s3", age=SIGNLESS_SECONDS - 1)
    assert watch._look() == ("https", "s3")
    now = time.monotonic()
    monkeypatch.setattr(fetcher_watch.time, "monotonic", lambda: now + SIGNLESS_SECONDS + 1)
    assert watch._look() == (), "it didn't change"
    sign(models, "https", age=3600)  # a clock that is an hour behind
    assert watch._look() == ("https",)


def test_what_is_mounted_or_there_is_not_waited_for(models):
    watch = FetcherWatch(models)
    asyncio.run(watch.arrived(KEY, PlannedVersion(version=1, digest=DIGEST)))
    (models / "m" / "1").mkdir(parents=True)
    (models / "m" / "1" / "manifest.json").write_text("{}")
    asyncio.run(watch.arrived(KEY, PLANNED))


def test_without_a_fetcher_it_says_what_to_do_and_before_the_first_look_nothing(models):
    assert (missing(FetcherWatch(models)).failure, missing(FetcherWatch(models)).progress) == (None, 0.0)
    failure = missing(looked(models)).failure
    assert failure is not None
    assert (failure.gate, failure.reason) == (Gate.FETCH, Reason.NO_FETCHER)
    assert "no fetcher is at work" in failure.message
    sign(models, "s3")
    failure = missing(looked(models)).failure
    assert failure is not None
    assert "may get s3:// only" in failure.message


def test_progress_and_failure_are_the_fetchers_words(models):
    sign(models, "https")
    watch = looked(models)
    assert missing(watch).progress == 0.0
    write_note(models / note_path(DIGEST), FetchNote(digest=DIGEST, uri=URI, progress=0.5))
    assert (missing(watch).failure, missing(watch).progress) == (None, 0.5)
    denied = Failure(gate=Gate.FETCH, reason=Reason.FETCH_DENIED, message="it asks for credentials")
    write_note(models / note_path(DIGEST), FetchNote(digest=DIGEST, uri=URI, failure=denied))
    assert (missing(watch).failure, missing(watch).progress) == (denied, None)
    (models / note_path(DIGEST)).write_text("{")
    assert missing(watch).failure is None
