"""What a fetcher leaves in the folder of models for the replicas that read it: that it is at work, and how far it is.

All of it is below `OWN_FOLDER`, which no replica takes for a model. A version's files are put together in
`work_folder(digest)`, checked there, and renamed to `<model>/<version>`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .document import Document
from .failures import Failure
from .identifiers import Digest, ModelName, Version

OWN_FOLDER = ".windlass-fetcher"
"""In the folder of models, on the same volume, so that a rename is one step."""
SIGN_NAME = "fetcher.json"
"""Holds a `FetcherSign`; its time of change is the sign of life."""
SIGN_SECONDS = 2.0
"""Between two signs of life."""
SIGNLESS_SECONDS = 15.0
"""A fetcher that gave none for so long isn't at work."""
MAX_NOTE_BYTES = 64 * 1024

FETCHED_SCHEMES = ("https", "s3", "http")
"""All that a fetcher of this release can be allowed."""


class FetcherSign(Document):
    """Who is at work."""

    schemes: Annotated[list[str], Field(max_length=16)]
    """Of the URIs that it is allowed to get files from."""


class FetchNote(Document):
    """How far one version is."""

    digest: Digest
    uri: str
    progress: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the bytes that are there and checked."""
    failure: Failure | None = None
    """Why the last attempt ended; another one follows."""
    model: ModelName | None = None
    """Given with `version` when a fetcher put `<model>/<version>` into its place, which one may then remove when nobody
    wants it any more. What somebody else put there is left alone."""
    version: Version | None = None


def note_path(digest: str) -> str:
    """Of a version's `FetchNote`, relative to the folder of models."""
    return f"{OWN_FOLDER}/{_plain(digest)}.json"


def work_folder(digest: str) -> str:
    """Where a version is put together, relative to the folder of models."""
    return f"{OWN_FOLDER}/{_plain(digest)}.part"


def lock_path(digest: str) -> str:
    """Locked by the fetcher that is at work on a version, relative to the folder of models."""
    return f"{OWN_FOLDER}/{_plain(digest)}.lock"


def _plain(digest: str) -> str:
    return digest.removeprefix("sha256:")
