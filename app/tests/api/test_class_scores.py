"""Which classes score highest, beside a plain sort of all."""

from __future__ import annotations

import math

import numpy as np
import pytest

from windlass_server.api.class_scores import find_scores, top_classes


def sorted_whole(scores, count):
    """NaN last, of equal ones the first first."""
    numbers = [index for index, score in enumerate(scores) if not math.isnan(score)]
    others = [index for index, score in enumerate(scores) if math.isnan(score)]
    return [*sorted(numbers, key=lambda index: -scores[index]), *others][:count]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 5, 299, 300, 400])
@pytest.mark.parametrize("bad", [0, 1, 298, 300])
def test_the_highest_are_those_of_a_plain_sort(dtype, count, bad):
    random = np.random.default_rng(count + bad)
    for different in (2, 1000):
        scores = random.integers(0, different, 300).astype(dtype)  # with many equal ones, and few
        scores[random.permutation(300)[:bad]] = np.nan
        found = [each["index"] for each in top_classes([], scores, count)]
        assert found == sorted_whole(scores.tolist(), count)


@pytest.mark.parametrize(
    ("change", "found"), [(0.0, True), (0.009, True), (0.02, False), (-0.5, False), (1.5, False), (math.nan, False)]
)
def test_many_numbers_are_scores_if_they_are_probabilities(change, found):
    rows = np.full((2, 100), 0.01, np.float32)
    rows[1, 3] += change
    assert (find_scores([], {"y": rows}) is not None) is found
