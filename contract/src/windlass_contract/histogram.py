"""A latency histogram that adds up: over replicas, over instances, over time.

Log-linear buckets as in HdrHistogram: each power of two of microseconds is cut in 16, so a quantile read from it
is at most 1/16 too high.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from .document import Document

_CUTS = 16
MAX_BUCKET = _CUTS * 40


def bucket_of(latency_seconds: float) -> int:
    """Index of the bucket that a latency in seconds falls into."""
    microseconds = max(latency_seconds * 1e6, 1.0)
    mantissa, exponent = math.frexp(microseconds)  # it is mantissa * 2 ** exponent, from 0.5 up to 1
    return min((exponent - 1) * _CUTS + int((2 * mantissa - 1) * _CUTS), MAX_BUCKET)


def upper_bound(bucket: int) -> float:
    """The bucket's upper end in seconds."""
    exponent, within = divmod(bucket, _CUTS)
    return float(2**exponent * (1 + (within + 1) / _CUTS)) / 1e6


class LatencyHistogram(Document):
    """Counts by bucket. Immutable: `merged` makes a new one."""

    buckets: dict[Annotated[int, Field(ge=0, le=MAX_BUCKET)], Annotated[int, Field(ge=0)]] = {}

    @property
    def count(self) -> int:
        """How many latencies are in it."""
        return sum(self.buckets.values())

    def merged(self, other: LatencyHistogram) -> LatencyHistogram:
        """Both together."""
        buckets = dict(self.buckets)
        for bucket, count in other.buckets.items():
            buckets[bucket] = buckets.get(bucket, 0) + count
        return LatencyHistogram(buckets=buckets)

    def quantile(self, share: float) -> float | None:
        """Seconds below which `share` (0 to 1) of the latencies lie; None when there are none."""
        wanted = share * self.count
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted and seen > 0:
                return upper_bound(bucket)
        return None
