"""Removes versions that fetchers brought and nobody wants any more, so that the volume doesn't fill.

A fetcher renews a version's note while its plan names it, so the note's age says for how long none did; that holds for
all fetchers that share the volume. What a fetcher didn't put there itself has no place in its note, and is left alone.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from windlass_contract.artifact import ArtifactError, read_manifest
from windlass_contract.document import DocumentError
from windlass_contract.fetching import MAX_NOTE_BYTES, FetchNote, lock_path, note_path, work_folder
from windlass_server.durable import sync_folder
from windlass_server.fetching.download import BusyError, locked


def read_note(path: Path) -> FetchNote | None:
    """A version's note; None when there is none that can be read."""
    try:
        with path.open("rb") as file:
            return FetchNote.parse_json(file.read(MAX_NOTE_BYTES + 1), str(path), MAX_NOTE_BYTES)
    except (OSError, DocumentError):
        return None


def prune(models: Path, digest: str, keep_seconds: float) -> bool:
    """Removes the version that a fetcher put into its place if no plan has named it for `keep_seconds`, and its note;
    returns whether it did. Raises `OSError`."""
    note = models / note_path(digest)
    try:
        with locked(models / lock_path(digest)):
            said = read_note(note)
            if said is None or said.model is None or said.version is None or said.digest != digest:
                return False
            if time.time() - note.stat().st_mtime < keep_seconds:
                return False
            _remove(models, models / said.model / str(said.version), digest)
            note.unlink()
    except (BusyError, FileNotFoundError):  # another fetcher is at it
        return False
    return True


def _remove(models: Path, place: Path, digest: str) -> None:
    """Removes a version's folder, if it still is that version: out of the replicas' sight first, in one step."""
    try:
        if place.is_symlink() or read_manifest(place).digest != digest:
            return
    except ArtifactError:
        return
    away = models / work_folder(digest)
    if os.path.lexists(away):
        shutil.rmtree(away)
    place.rename(away)
    for folder in (place.parent, away.parent):
        sync_folder(folder)
    shutil.rmtree(away)
