"""How many requests a worker is sent at a time."""

from __future__ import annotations

import math

import pytest

from windlass_server.hosting.send_ahead import MOST_AHEAD, SendAhead


def after(ahead: SendAhead, seconds: object, answers: int = 500) -> int:
    """Places, once so many were answered. What it gives back agrees with them."""
    before = ahead.places
    free = sum(ahead.answered(seconds) for _ in range(answers))
    assert free - answers == ahead.places - before
    return ahead.places


@pytest.mark.parametrize(
    ("seconds", "places"),
    [(0.1, 3), (0.002, 3), (0.001, 4), (0.0003, 6), (0.00001, 3 + MOST_AHEAD), (0.0, 3 + MOST_AHEAD)],
)
def test_no_more_is_sent_than_it_works_off_in_a_millisecond(seconds: float, places: int):
    assert after(SendAhead(threads=2), seconds) == places


def test_it_follows_what_requests_take():
    ahead = SendAhead(threads=1)
    assert after(ahead, 0.00001) == 2 + MOST_AHEAD
    assert after(ahead, 0.1) == 2
    assert after(ahead, 0.00001) == 2 + MOST_AHEAD


def test_one_slow_request_among_quick_ones_takes_places_at_once():
    ahead = SendAhead(threads=1)
    after(ahead, 0.0001)
    assert ahead.answered(1.0) == 0


@pytest.mark.parametrize("said", [None, "soon", 1, True, -1.0, math.nan, math.inf, 1e9, [], {}])
def test_what_a_worker_may_not_say_counts_for_nothing(said: object):
    ahead = SendAhead(threads=2)
    assert after(ahead, said) == 3
    after(ahead, 0.0003)
    assert after(ahead, said) == 6
