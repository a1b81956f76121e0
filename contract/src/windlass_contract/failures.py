"""Why a version can't answer: the reasons, and which of them are a verdict on the artifact."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .document import Document


class Gate(StrEnum):
    """The checks a version passes, in this order."""

    FETCH = "Fetch"
    DIGEST = "Digest"
    OPERATIONS = "Operations"
    """What the model's program may do."""
    LOAD = "Load"
    WARM_UP = "WarmUp"
    PARITY = "Parity"
    ACCEPTANCE = "Acceptance"
    SIGNATURE = "Signature"
    """Of the model: what clients send and get."""
    ERROR_RATE = "ErrorRate"
    """Of real requests, failed by the version's own fault."""


class Reason(StrEnum):
    """Stable, CamelCase; conditions carry them."""

    # Not there yet, or not as declared: refused, read again, never a verdict.
    NOT_FOUND = "NotFound"
    MANIFEST_MISSING = "ManifestMissing"
    MANIFEST_INVALID = "ManifestInvalid"
    MANIFEST_MISMATCH = "ManifestMismatch"
    """Its model or version isn't the declared one."""
    DIGEST_MISMATCH = "DigestMismatch"
    FILE_MISSING = "FileMissing"
    FILE_SIZE_MISMATCH = "FileSizeMismatch"
    FILE_DIGEST_MISMATCH = "FileDigestMismatch"
    FILE_UNLISTED = "FileUnlisted"
    FILE_IRREGULAR = "FileIrregular"
    """A link, a device, a pipe or a socket."""
    FILE_UNREADABLE = "FileUnreadable"
    # What the fetcher met: tried again with backoff, never a verdict.
    NO_FETCHER = "NoFetcher"
    """Nothing is at work here that gets files from such a URI."""
    FETCH_FAILED = "FetchFailed"
    """The source, or the volume, gave an error or no answer."""
    FETCH_DENIED = "FetchDenied"
    """The source asks for credentials, or for others."""
    FETCH_NOT_ALLOWED = "FetchNotAllowed"
    """A host, a redirect, a size or a number of files beyond what the fetcher is allowed."""
    # Circumstances: retried with backoff, never a verdict.
    LOAD_DEADLINE_EXCEEDED = "LoadDeadlineExceeded"
    WONT_FIT = "WontFit"
    RUNTIME_UNAVAILABLE = "RuntimeUnavailable"
    SAMPLES_UNAVAILABLE = "SamplesUnavailable"
    WORKER_LOST = "WorkerLost"
    """Its process was ended from outside (stopped, killed by the system)."""
    # Verdicts on the artifact: quarantined.
    FORBIDDEN_OPERATION = "ForbiddenOperation"
    """It reads files, opens connections, runs Python, or does something unknown."""
    LOAD_FAILED = "LoadFailed"
    WORKER_CRASHED = "WorkerCrashed"
    WARM_UP_FAILED = "WarmUpFailed"
    PARITY_FAILED = "ParityFailed"
    ACCEPTANCE_FAILED = "AcceptanceFailed"
    SIGNATURE_MISMATCH = "SignatureMismatch"
    """The loaded model hasn't the signatures that its manifest promises."""
    SIGNATURE_CHANGED = "SignatureChanged"
    """Clients of the committed version would break."""
    ERROR_RATE_EXCEEDED = "ErrorRateExceeded"
    """It failed too many of its clients' requests by its own fault."""


VERDICTS = frozenset(
    {
        Reason.FORBIDDEN_OPERATION,
        Reason.LOAD_FAILED,
        Reason.WORKER_CRASHED,
        Reason.WARM_UP_FAILED,
        Reason.PARITY_FAILED,
        Reason.ACCEPTANCE_FAILED,
        Reason.SIGNATURE_MISMATCH,
        Reason.SIGNATURE_CHANGED,
        Reason.ERROR_RATE_EXCEEDED,
    }
)
"""Only these quarantine. All others are `Stalled`: tried again, while the old version serves."""


class Failure(Document):
    """What went wrong with a version in a replica."""

    gate: Gate
    reason: Reason
    message: Annotated[str, Field(max_length=2000)]
    """For people: what was found, where, and what to do."""
    file: str | None = None
    """The file at fault, relative to the version's folder."""

    @property
    def is_verdict(self) -> bool:
        """Whether it says something about the artifact, rather than about the circumstances."""
        return self.reason in VERDICTS


class GateResult(Document):
    """Evidence of one gate that was tried."""

    gate: Gate
    passed: bool
    statistic: str = ""
    """What was measured, e.g. `score 0.12 of 0.95 (6 of 50 samples)`."""
