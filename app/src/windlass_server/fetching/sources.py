"""Where files are fetched from. A source gives one file's bytes; what they have to be is the download's business."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from windlass_contract.failures import Failure, Gate, Reason

MAX_MESSAGE = 2000


class FetchError(Exception):
    """An attempt ended; `failure` says why, without a secret in it."""

    def __init__(self, reason: Reason, message: str, file: str | None = None) -> None:
        super().__init__(message)
        self.failure = Failure(gate=Gate.FETCH, reason=reason, message=message[:MAX_MESSAGE], file=file)


@dataclass(frozen=True)
class Opened:
    """A file that is being sent."""

    start: int
    """The first byte's offset: that which was asked for, or 0 from a source that can't begin elsewhere."""
    chunks: AsyncIterator[bytes]
    """Reading on raises `FetchError`."""


class Source(Protocol):
    """Gets files from the URIs of one scheme."""

    def open(self, uri: str, file: str, offset: int = 0) -> contextlib.AbstractAsyncContextManager[Opened]:
        """Begins to send `file`, a relative path in the folder at `uri`. Raises `FetchError`."""
        ...


def join(uri: str, file: str, quote: str = "") -> str:
    """The address of a file in the folder at `uri`. `quote`: the path in the form that the scheme wants."""
    return f"{uri.rstrip('/')}/{quote or file}"
