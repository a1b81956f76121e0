"""Latency histograms: a quantile is at most 1/16 too high, and adding is exact."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_contract.histogram import MAX_BUCKET, LatencyHistogram, bucket_of, upper_bound

LATENCIES = st.floats(1e-6, 3600)


def histogram(latencies: list[float]) -> LatencyHistogram:
    buckets: dict[int, int] = {}
    for latency in latencies:
        buckets[bucket_of(latency)] = buckets.get(bucket_of(latency), 0) + 1
    return LatencyHistogram(buckets=buckets)


@settings(deadline=None)
@given(LATENCIES)
def test_a_latency_lies_in_its_bucket(latency: float) -> None:
    upper = upper_bound(bucket_of(latency))
    assert latency <= upper * (1 + 1e-9)
    assert upper <= latency * (1 + 1 / 16) * (1 + 1e-9)


@settings(deadline=None)
@given(LATENCIES, LATENCIES)
def test_buckets_are_in_the_order_of_latencies(one: float, other: float) -> None:
    assert (bucket_of(one) <= bucket_of(other)) or one > other


@settings(deadline=None)
@given(st.lists(LATENCIES, min_size=1, max_size=60), st.floats(0, 1))
def test_a_quantile_is_never_too_low_and_at_most_a_sixteenth_too_high(latencies: list[float], share: float) -> None:
    exact = sorted(latencies)[max(math.ceil(share * len(latencies)), 1) - 1]
    found = histogram(latencies).quantile(share)
    assert found is not None
    assert exact * (1 - 1e-9) <= found <= exact * (17 / 16) * (1 + 1e-9)


@settings(deadline=None)
@given(st.lists(LATENCIES, max_size=30), st.lists(LATENCIES, max_size=30), st.lists(LATENCIES, max_size=30))
def test_adding_is_as_counting_together_in_any_order(one: list[float], two: list[float], three: list[float]) -> None:
    together = histogram(one + two + three)
    assert histogram(one).merged(histogram(two)).merged(histogram(three)) == together
    assert histogram(three).merged(histogram(one).merged(histogram(two))) == together
    assert together.count == len(one) + len(two) + len(three)


def test_adding_leaves_the_parts_alone() -> None:
    one, two = histogram([0.1]), histogram([0.1, 0.2])
    one.merged(two)
    assert (one.count, two.count) == (1, 2)


@settings(deadline=None)
@given(st.lists(LATENCIES, max_size=30))
def test_it_survives_json(latencies: list[float]) -> None:
    given_ = histogram(latencies)
    assert LatencyHistogram.parse(given_.to_dict(), "report") == given_


def test_an_empty_one_has_no_quantile() -> None:
    assert LatencyHistogram().quantile(0.99) is None
    assert LatencyHistogram().count == 0


@pytest.mark.parametrize(("latency", "bucket"), [(0.0, 0), (-1.0, 0), (1e-9, 0), (1e-6, 0), (1e9, MAX_BUCKET)])
def test_what_no_clock_measures_falls_into_the_ends(latency: float, bucket: int) -> None:
    assert bucket_of(latency) == bucket
