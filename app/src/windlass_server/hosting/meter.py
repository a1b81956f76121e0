"""What a version has answered since its start in this instance: evidence for the operator, series for metrics."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter

from windlass_contract.histogram import LatencyHistogram, bucket_of
from windlass_contract.report import Counters
from windlass_server.errors import Code

BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of the buckets in /metrics; the last one, +Inf, is implied."""

OWN_FAULTS = frozenset({Code.INTERNAL, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED})
"""What a version answers by its own fault: its worker failed, died, was too slow or got no memory."""

OK = "OK"


class Meter:
    """Counts one version's answers; they only grow. Requests that named the version are no evidence, but they count in
    the metrics."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        """Answers by code, `OK` included."""
        self.buckets = [0] * (len(BUCKETS_SECONDS) + 1)
        """Latencies by upper end in `BUCKETS_SECONDS`, not summed up."""
        self.seconds = 0.0
        """Sum of all latencies."""
        self.unheld_since: float | None = None
        """On the event loop's clock; None while the version is held."""
        self._evidence: Counter[int] = Counter()
        self._requests = 0
        self._errors = 0
        self._fallbacks = 0

    def count(self, code: Code | None, seconds: float, *, explicit: bool) -> None:
        """Takes one answer in. `code`: None when it went well."""
        self.codes[code or OK] += 1
        self.buckets[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.seconds += seconds
        if not explicit:
            self._requests += 1
            self._errors += code in OWN_FAULTS
            self._evidence[bucket_of(seconds)] += 1

    def fall_back(self) -> None:
        """A request that the version failed was answered by another one."""
        self._fallbacks += 1

    @property
    def fallbacks(self) -> int:
        """Requests that it failed and another version answered."""
        return self._fallbacks

    def usual_seconds(self) -> float:
        """What half of the answers stayed below, by the upper ends of the buckets; 0.1 s before the first."""
        total = sum(self.buckets)
        if not total:
            return 0.1
        counted = 0
        for end, count in zip(BUCKETS_SECONDS, self.buckets, strict=False):
            counted += count
            if counted >= total / 2:
                return end
        return math.inf

    def refuse(self, code: Code) -> None:
        """Takes in a request that never reached the version."""
        self.codes[str(code)] += 1

    def counters(self) -> Counters:
        """The evidence."""
        return Counters(
            requests=self._requests,
            errors=self._errors,
            fallbacks=self._fallbacks,
            latency=LatencyHistogram(buckets=dict(self._evidence)),
        )
