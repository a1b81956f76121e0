"""One answered prediction, and where the protocols put it."""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol


class Prediction(NamedTuple):
    """What is remembered of one prediction. Neither inputs nor outputs, beyond the class with the highest score."""

    id: str
    """Ours, unique over all replicas, see `new_id`: recorded twice, it is kept once. At most 64 characters."""
    model: str
    version: int
    digest: str
    """Of the manifest, as in `X-Model-Digest`."""
    epoch: int
    """Of the plan that the version was chosen under."""
    protocol: str
    """`v1`, `v2` or `predict`."""
    signature: str
    latency_seconds: float
    """From the request being read to the answer being ready."""
    status: int
    """The HTTP status it was answered with."""
    top_class: str | None
    """Name, else index, of the class with the highest score; None when the answer isn't one of scores."""
    top_score: float | None
    request_id: str
    """The client's `X-Request-Id`, else the one we gave it."""
    at: float
    """When it was answered, in seconds since 1970 (UTC)."""


def new_id(at: float) -> str:
    """Microseconds since 1970, then 64 random bits. Ids that begin with the time go to the end of the database's index
    of them; random ones go everywhere in it, and each costs a page of its own to be written, the more the larger it is.
    """
    return f"{int(at * 1e6):016x}{random.getrandbits(64):016x}"


class PredictionSink(Protocol):
    """Takes predictions; the protocols know no more of the log than this."""

    def record(self, prediction: Prediction) -> None:
        """Never blocks and never raises: what can't be kept is dropped and counted."""
        ...
