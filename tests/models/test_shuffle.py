import itertools
import math

import numpy as np
import pytest

from skdist.models.shuffle import shuffled_pages


def test_all_orders_are_equally_likely():
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    draws = 24_000
    for epoch in range(draws):
        counts[tuple(shuffled_pages(4, 1, (7, epoch, 0)).tolist())] += 1
    # Five standard deviations of each count.
    assert max(abs(count - draws / 24) for count in counts.values()) < 5 * math.sqrt(draws / 24)


@pytest.mark.parametrize("place", [0, 250, 499])
def test_any_row_may_be_anywhere(place):
    rows = [shuffled_pages(500, 1, (3, epoch, 1))[place] for epoch in range(2000)]
    histogram = np.histogram(rows, bins=10, range=(0, 500))[0]
    assert abs(histogram - 200).max() < 5 * math.sqrt(200)


def test_consecutive_entropies_give_unrelated_orders():
    a, b = shuffled_pages(2000, 1, (1, 0, 0)), shuffled_pages(2000, 1, (1, 1, 0))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.12
    assert np.mean(a == b) < 0.01
