"""What the prediction log may keep, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

DATABASE_NAME = "predictions.sqlite"
SPOOL_NAME = "predictions-spool"
OFF = "off"
MIB = 1024 * 1024


class PredictionLogError(ValueError):
    """The prediction log can't be set up as asked for: what is wrong, and the remedy."""


@dataclass(frozen=True)
class PredictionLogSettings:
    """Bounds and paces. Raises `PredictionLogError` for values that make no sense."""

    sample: float = 1.0
    """Share of the predictions that is kept, 0 to 1; the id decides, so a repeated record is decided alike."""
    max_bytes: int = 1024 * MIB
    """Of the database's rows, and of the spool, each: the oldest go first."""
    max_age_seconds: float = 30 * 24 * 3600.0
    """Older ones go."""
    flush_seconds: float = 1.0
    """What was recorded is on disk after so long."""
    batch_rows: int = 500
    """Written at once; so many waiting are written before `flush_seconds` are over."""
    max_queued: int = 10_000
    """Rows in memory, not yet on disk. More are dropped and counted."""
    segment_bytes: int = 4 * MIB
    """Size of a spool file."""
    first_wait_seconds: float = 1.0
    """Before the database is connected to, as long as there is nothing to store: a replica that starts has better to
    do than to import what that takes."""
    retry_seconds: float = 0.5
    """Before a database that failed is asked again; doubled each time, up to `max_retry_seconds`."""
    max_retry_seconds: float = 15.0
    ping_seconds: float = 5.0
    """How often an idle database is asked whether it is there."""
    expire_seconds: float = 300.0
    """Between two looks for rows beyond the bounds."""

    def __post_init__(self) -> None:
        if not 0 <= self.sample <= 1:
            raise PredictionLogError(f"the prediction log's sample is {self.sample}: write a share from 0 to 1")
        if self.max_bytes < MIB:
            raise PredictionLogError(f"the prediction log's bound is {self.max_bytes} bytes: at least {MIB} are needed")
        if self.max_age_seconds <= 0:
            raise PredictionLogError(f"the prediction log's age is {self.max_age_seconds} s: more than 0 is expected")


def is_off(text: str | None) -> bool:
    """Whether predictions are not to be kept."""
    return text is not None and text.strip().lower() == OFF


def is_default(text: str | None) -> bool:
    """Whether they go to the file in the folder of state: then nothing can be wrong with their place."""
    return not text or not text.strip()


def database_url(text: str | None, state_dir: Path) -> URL | None:
    """Where predictions go. `off` (any case): nowhere, None. Empty or None: SQLite in `state_dir`. Else
    `sqlite:////absolute/path` or `postgresql://user@host/database` (a password by `?passfile=`, or in the URL).
    Raises `PredictionLogError`.
    """
    # Here, not above: see `log`.
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError

    if is_off(text):
        return None
    if text is None or is_default(text):
        return URL.create("sqlite", database=str(state_dir.absolute() / DATABASE_NAME))
    try:
        url = make_url(text.strip())
    except ArgumentError:
        # The text may hold a password: it isn't repeated.
        raise PredictionLogError(
            "the prediction log's URL can't be read: write off, sqlite:////var/lib/windlass/predictions.sqlite or "
            "postgresql://user@host/database"
        ) from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise PredictionLogError("the prediction log's SQLite URL names no file: write sqlite:////absolute/path")
        return url.set(drivername="sqlite")
    if backend == "postgresql":
        if find_spec("psycopg") is None:
            raise PredictionLogError(
                "the prediction log's URL is PostgreSQL's, but its driver is missing: "
                "pip install 'windlass-server[postgresql]'"
            )
        return url.set(drivername="postgresql+psycopg")
    raise PredictionLogError(f"the prediction log can't write to {backend}: use sqlite or postgresql")
